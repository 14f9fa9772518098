// Package slots writes the slot of an appliance that is not running, and tells the loader which one to start. It knows the disk that
// firmware-image/appliance/build.sh makes: four partitions, of which the second and third are the slots A and B, and on the first the file that
// the loader reads. No I/O of its own but on the files it is given.
package slots

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"

	"sealgate/pkg/dcbor"
)

// MessageType is the type of the signed message (docs/spec/envelope.md 12) beside an image, whose payload is a Release.
const MessageType = "image"

// MaxImage bounds an image, in bytes: no slot is larger.
const MaxImage = 1 << 30

// Release is what a signature says about an image.
type Release struct {
	Size int64
	Hash [sha256.Size]byte // SHA-256
}

// Measure reads an image to its end.
func Measure(image io.Reader) (Release, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(image, MaxImage+1))
	if err == nil && (n == 0 || n > MaxImage) {
		err = fmt.Errorf("an image has 1 to %d bytes", int64(MaxImage))
	}
	r := Release{Size: n}
	h.Sum(r.Hash[:0])
	return r, err
}

// Marshal encodes a release: ["image", size, SHA-256].
func (r Release) Marshal() []byte {
	b := dcbor.AppendText(dcbor.AppendArray(nil, 3), MessageType)
	return dcbor.AppendBytes(dcbor.AppendUint(b, uint64(r.Size)), r.Hash[:])
}

// ParseRelease decodes a release.
func ParseRelease(b []byte) (r Release, err error) {
	in := dcbor.NewReader(b)
	in.ArrayExact(3)
	if in.Text(len(MessageType)) != MessageType {
		in.Fail(errors.New("it is not about an image"))
	}
	r.Size = int64(in.UintMax(MaxImage))
	in.BytesExact(r.Hash[:])
	return r, in.Done()
}

// Slot is "A" or "B".
type Slot string

// Running finds the slot that runs in the kernel's command line.
func Running(cmdline string) (slot Slot, trial bool, err error) {
	for _, word := range strings.Fields(cmdline) {
		if s, ok := strings.CutPrefix(word, "sealgate.slot="); ok {
			slot = Slot(s)
		}
		trial = trial || word == "sealgate.trial"
	}
	if slot != "A" && slot != "B" {
		return "", false, errors.New("this machine was not started from a slot: it is no appliance")
	}
	return slot, trial, nil
}

// Other is the slot that does not run.
func (s Slot) Other() Slot {
	if s == "A" {
		return "B"
	}
	return "A"
}

// Partition is the slot's, given the partition of another slot: "/dev/sda2" for A is "/dev/sda3" for B.
func (s Slot) Partition(running string) (string, error) {
	disk, ok := strings.CutSuffix(running, map[Slot]string{"A": "3", "B": "2"}[s])
	if !ok {
		return "", fmt.Errorf("the slot that runs is on %q, which is none of the partitions 2 and 3", running)
	}
	return disk + map[Slot]string{"A": "2", "B": "3"}[s], nil
}

// Loader is the partition with the loader's file, given that of a slot.
func Loader(slot string) string { return slot[:len(slot)-1] + "1" }

// Write copies an image onto a slot's device, and reports how far it is. What it wrote is read back and compared with the release: a device
// may take less than it was given, and an image may have been exchanged since its signature was looked at.
func Write(device Device, image io.Reader, r Release, progress func(done int64)) error {
	buf := make([]byte, 1<<20)
	for done := int64(0); done < r.Size; {
		n, err := io.ReadFull(image, buf[:min(int64(len(buf)), r.Size-done)])
		if err != nil {
			return fmt.Errorf("read the image after %d of %d bytes: %w", done, r.Size, err)
		}
		if _, err := device.WriteAt(buf[:n], done); err != nil {
			return fmt.Errorf("write the slot after %d of %d bytes: %w", done, r.Size, err)
		}
		done += int64(n)
		progress(done)
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("write the slot: %w", err)
	}
	got, err := Measure(io.NewSectionReader(device, 0, r.Size))
	if err != nil {
		return fmt.Errorf("read the slot back: %w", err)
	}
	if subtle.ConstantTimeCompare(got.Hash[:], r.Hash[:]) != 1 {
		return errors.New("what was written is not what was signed: the image was exchanged meanwhile, or the disk is defective")
	}
	return nil
}

// Device is where a slot is.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// The loader's file, a GRUB environment block: a line that says so, lines KEY=VALUE, and "#" up to 1024 bytes.
const (
	blockSize   = 1024
	blockHeader = "# GRUB Environment Block\n"
)

// Begin returns the loader's file for the time in which the other slot is written: the one that runs is good, and none is to be tried. A slot
// that runs on trial and has not been kept is refused: the other one is what the machine falls back to.
func Begin(block []byte, running Slot, trial bool) ([]byte, error) {
	if trial && !strings.Contains(string(block), "\ngood="+string(running)+"\n") {
		return nil, fmt.Errorf("slot %s runs on trial, and slot %s is what is started if it fails: wait until it is kept, two minutes at most", running, running.Other())
	}
	return Set(block, "good", string(running), "try", "")
}

// Set returns the loader's file with values set: pairs of key and value. A file that is damaged is begun anew.
func Set(block []byte, pairs ...string) ([]byte, error) {
	var lines []string
	if text, ok := strings.CutPrefix(string(block), blockHeader); ok && len(block) == blockSize {
		for line := range strings.Lines(strings.TrimRight(text, "#")) {
			key, _, ok := strings.Cut(line, "=")
			if ok && !isKey(pairs, key) && strings.HasSuffix(line, "\n") {
				lines = append(lines, line)
			}
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		lines = append(lines, pairs[i]+"="+pairs[i+1]+"\n")
	}
	b := []byte(blockHeader + strings.Join(lines, ""))
	if len(b) > blockSize {
		return nil, fmt.Errorf("the loader's file has room for %d bytes", blockSize)
	}
	return append(b, bytes.Repeat([]byte("#"), blockSize-len(b))...), nil
}

func isKey(pairs []string, key string) bool {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == key {
			return true
		}
	}
	return false
}
