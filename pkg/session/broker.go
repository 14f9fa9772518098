package session

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Broker is where a broker listens, as a URL of the user's said it.
type Broker struct {
	Addr string // host:port
	Host string // name that its certificate must carry
	TLS  bool
}

// ParseBroker reads mqtt://host[:1883] or mqtts://host[:8883].
func ParseBroker(s string) (Broker, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" && u.Opaque == "" {
		return Broker{}, fmt.Errorf("broker URL %q: want mqtt://host[:port] or mqtts://host[:port]", redactURL(s))
	}
	b := Broker{Host: u.Hostname()}
	port := u.Port()
	switch u.Scheme {
	case "mqtt":
		port = orDefault(port, "1883")
	case "mqtts":
		port, b.TLS = orDefault(port, "8883"), true
	default:
		return Broker{}, fmt.Errorf("broker URL %q: want mqtt:// or mqtts:// in front of the host", redactURL(s))
	}
	if u.User != nil {
		return Broker{}, errors.New("broker URL: a user name or password does not belong into the URL; give it by its own option")
	}
	if b.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return Broker{}, fmt.Errorf("broker URL %q: want only a host and a port after %s://", s, u.Scheme)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Broker{}, fmt.Errorf("broker URL %q: port %q is not a number from 1 to 65535", s, port)
	}
	b.Addr = net.JoinHostPort(b.Host, port)
	return b, nil
}

// ParseBrokers reads broker URLs separated by commas, in order of preference.
func ParseBrokers(list string) (all []Broker, err error) {
	for _, s := range strings.Split(list, ",") {
		b, err := ParseBroker(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// String returns the broker's URL, port included.
func (b Broker) String() string {
	if b.TLS {
		return "mqtts://" + b.Addr
	}
	return "mqtt://" + b.Addr
}

// redactURL keeps a password that was put into a URL out of an error message.
func redactURL(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "(user and password hidden)" + s[i:]
	}
	return s
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// TLSFiles builds the TLS configuration for brokers: trust in the CAs of caFile (PEM; empty: the
// system's) and, if both are named, a client certificate. Verification cannot be switched off.
func TLSFiles(caFile, certFile, keyFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("broker CA: %w; name the PEM file of the CA that signed the broker's certificate", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("broker CA %s: no certificate in it; want PEM (-----BEGIN CERTIFICATE-----)", caFile)
		}
	}
	if (certFile == "") != (keyFile == "") {
		return nil, errors.New("TLS client certificate: certificate and key must be given together")
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("TLS client certificate %s with key %s: %w", certFile, keyFile, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
