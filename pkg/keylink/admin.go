package keylink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"sealgate/pkg/crypto"
)

// Rotate asks the controld behind the socket at path for a new epoch of the group now, and
// returns the epoch that it made.
func Rotate(ctx context.Context, path, group string) (crypto.Epoch, error) {
	m, err := ask(ctx, path, rotateMsg{group})
	if err != nil {
		return crypto.Epoch{}, fmt.Errorf("rotating group %q: %w", group, err)
	}
	r, ok := m.(rotatedMsg)
	if !ok || r.group != group {
		return crypto.Epoch{}, fmt.Errorf("rotating group %q: controld answered with a %s", group, m.name())
	}
	return r.epoch, nil
}

// Status asks the controld behind the socket at path for its status, a JSON object.
func Status(ctx context.Context, path string) ([]byte, error) {
	m, err := ask(ctx, path, askStatusMsg{})
	if err != nil {
		return nil, fmt.Errorf("asking controld for its status: %w", err)
	}
	s, ok := m.(statusMsg)
	if !ok {
		return nil, fmt.Errorf("asking controld for its status: it answered with a %s", m.name())
	}
	return s.json, nil
}

// ask makes one request. The time is the context's, at most adminTimeout.
func ask(ctx context.Context, path string, request message) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	c, err := dial(ctx, path, roleAdmin)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := writeMessage(c, request); err != nil {
		return nil, adminError(ctx, err)
	}
	m, err := readMessage(c)
	if err != nil {
		return nil, adminError(ctx, err)
	}
	if r, refused := m.(refusalMsg); refused {
		return nil, errors.New(r.text)
	}
	return m, nil
}

func adminError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("controld did not answer: %w", ctx.Err())
	case err == io.EOF, errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return errors.New("controld closed the connection: run this as root, as controld's user or as a member of its group; controld's log says more")
	}
	return err
}

// dial connects and says hello.
func dial(ctx context.Context, path, role string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("nobody listens at %s: is controld running, with this path as keylink?", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("permission denied at %s: run this as root, as controld's user or as a member of its group", path)
	default:
		return nil, fmt.Errorf("%s: %w", path, reason(err))
	}
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := writeMessage(c, helloMsg{ProtocolVersion, role}); err != nil {
		_ = c.Close()
		return nil, adminError(ctx, err)
	}
	return c, nil
}
