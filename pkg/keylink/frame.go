package keylink

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxFrame is the most bytes that a frame may have after its length.
const MaxFrame = 1 << 20

// lengthSize is the size of the big-endian length before each frame.
const lengthSize = 4

// writeMessage writes m as one frame. The encoding may hold secrets: it is wiped.
func writeMessage(w io.Writer, m message) error {
	b := m.append(make([]byte, lengthSize, 512))
	defer func() { clear(b) }()
	n := len(b) - lengthSize
	if n > MaxFrame {
		return fmt.Errorf("keylink: a %s of %d bytes does not fit a frame of %d", m.name(), n, MaxFrame)
	}
	binary.BigEndian.PutUint32(b, uint32(n))
	_, err := w.Write(b)
	return err
}

// readMessage reads one frame and decodes it. An io.EOF means that the peer closed between
// frames. The buffer grows as bytes arrive, not as the peer declares, and is wiped.
func readMessage(r io.Reader) (message, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxFrame {
		return nil, fmt.Errorf("keylink: frame of %d bytes: 1 to %d allowed", n, MaxFrame)
	}
	b, err := readExactly(r, int(n))
	defer func() { clear(b) }()
	if err != nil {
		return nil, fmt.Errorf("keylink: frame cut off: %w", err)
	}
	return decode(b)
}

const readStep = 64 << 10

func readExactly(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, 0, min(n, readStep))
	for len(b) < n {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(n, 2*cap(b)))
			copy(grown, b)
			clear(b)
			b = grown
		}
		m, err := io.ReadFull(r, b[len(b):cap(b)])
		b = b[:len(b)+m]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return b, err
		}
	}
	return b, nil
}
