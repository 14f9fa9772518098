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

// String says what was refused before a connection was there, and what after.
func (r refusedStatus) String() string {
	switch {
	case r.Connections == 0 && r.Packets == 0:
		return "none"
	case r.Connections == 0:
		return fmt.Sprintf("%d packets", r.Packets)
	case r.Packets == 0:
		return fmt.Sprintf("%d connections", r.Connections)
	}
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
			packets, bytes = fmt.Sprint(d.Packets), size(d.Bytes)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%d\t%s\n", d.Address, orDash(d.MAC), clientList(d.Clients), d.Open, d.Connections, packets, bytes, d.Limited, ago(d.Seen))
	}
	if n := s.Known - len(s.Devices); n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
	s.denyList(w)
}

// denyList shows the entries that have kept somebody out, and counts the others, of which there may be a thousand.
func (s *deviceStatus) denyList(w io.Writer) {
	quiet := 0
	for _, d := range s.DenyList {
		if d.Seen < 0 {
			quiet++
		}
	}
	if quiet < len(s.DenyList) {
		fmt.Fprintf(w, "\nDENIED\tPACKETS\tCONNECTIONS\tSEEN\n")
	}
	for _, d := range s.DenyList {
		if d.Seen < 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", d.Source, d.Packets, d.Connections, ago(d.Seen))
	}
	switch {
	case quiet == 0:
	case quiet == len(s.DenyList):
		fmt.Fprintf(w, "\nnone of the %d denied was seen\n", quiet)
	default:
		fmt.Fprintf(w, "and %d more, not seen\n", quiet)
	}
}

// size shows bytes in the largest unit of which there is one.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
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
	return age(seconds) + " ago"
}
