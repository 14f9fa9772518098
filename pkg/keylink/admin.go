package keylink

import (
	"context"
	"errors"

	"sealgate/pkg/crypto"
)

// Rotate asks the controld behind the socket at path for a new epoch of the group now, and
// returns the epoch that it made.
func Rotate(ctx context.Context, path, group string) (crypto.Epoch, error) {
	return crypto.Epoch{}, errors.New("keylink: not built yet")
}

// Status asks the controld behind the socket at path for its status, a JSON object.
func Status(ctx context.Context, path string) ([]byte, error) {
	return nil, errors.New("keylink: not built yet")
}
