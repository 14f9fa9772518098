//go:build pins

// This file is never built. It keeps in go.mod, at the version that can be fetched, the
// module that the NFQUEUE mode is to be built on; `go mod tidy` reads it all the same.
package steer

import _ "github.com/florianl/go-nfqueue/v2"
