package cli

import (
	"fmt"
	"io"

	"sealgate/cmd/sealctl/screen"
)

// deviceStatus is what the table shows of the devices in gatewayd's JSON.
type deviceStatus struct {
	Known   int           `json:"known"`
	Counted bool          `json:"packets_counted"`
	Denied  refusedStatus `json:"denied"`
	Limited refusedStatus `json:"limited"`
	Devices []struct {
		MAC         string   `json:"mac"`
		Address     string   `json:"address"`
		Clients     []string `json:"clients"`
		Open        int      `json:"open"`
		Connections uint64   `json:"connections"`
		Packets     uint64   `json:"packets"`
		Bytes       uint64   `json:"bytes"`
		Limited     uint64   `json:"limited"`
		Seen        float64  `json:"last_seen_seconds"`
	} `json:"devices"`
	DenyList []struct {
		Source string `json:"source"`
		refusedStatus
		Seen float64 `json:"last_seen_seconds"`
	} `json:"deny_list"`
}

type refusedStatus struct {
	Packets     uint64 `json:"packets"`
	Connections uint64 `json:"connections"`
}

// line is the sum of what was refused.
func (s *deviceStatus) line(w io.Writer) {
	if s == nil {
		return // an older gatewayd
	}
	fmt.Fprintf(w, "devices\t%d known, denied %s, limited %s\n", s.Known, s.Denied, s.Limited)
}

func (r refusedStatus) String() string {
	return fmt.Sprintf("%d packets and %d connections", r.Packets, r.Connections)
}

func (s *deviceStatus) table(w io.Writer) {
	if s == nil {
		return
	}
	if len(s.Devices) > 0 {
		fmt.Fprintf(w, "\nADDRESS\tMAC\tCLIENT\tOPEN\tCONNECTIONS\tPACKETS\tBYTES\tLIMITED\tSEEN\n")
	}
	for _, d := range s.Devices {
		packets, bytes := "-", "-"
		if s.Counted {
			packets, bytes = fmt.Sprint(d.Packets), fmt.Sprint(d.Bytes)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%d\t%s\n", d.Address, orDash(d.MAC), clientList(d.Clients), d.Open, d.Connections, packets, bytes, d.Limited, ago(d.Seen))
	}
	if n := s.Known - len(s.Devices); n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
	if len(s.DenyList) > 0 {
		fmt.Fprintf(w, "\nDENIED\tPACKETS\tCONNECTIONS\tSEEN\n")
	}
	for _, d := range s.DenyList {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", d.Source, d.Packets, d.Connections, ago(d.Seen))
	}
}

// clientList names one client, and how many there are besides.
func clientList(ids []string) string {
	switch len(ids) {
	case 0:
		return "-"
	case 1:
		return screen.Plain(ids[0])
	}
	return fmt.Sprintf("%s and %d more", screen.Plain(ids[0]), len(ids)-1)
}

func ago(seconds float64) string {
	if seconds < 0 {
		return "never"
	}
	return age(seconds) + " ago"
}
