package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/slots"
	"sealgate/pkg/atomicfile"
	"sealgate/pkg/config"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
)

func upgradeSign() *command {
	return &command{
		name: "upgrade sign", args: "IMAGE -i DIR", short: "sign an appliance's image for a fleet", run: runUpgradeSign,
		long: `
Write IMAGE.sig, by which the fleet's appliances know that they may run IMAGE: a slot, as
` + "`make image`" + ` made it. The identity is an operator's.`,
	}
}

func upgradeKeep() *command {
	return &command{
		name: "upgrade keep", args: "[flags]", short: "on an appliance, keep the slot that runs on trial if it works", run: runUpgradeKeep,
		long: `
Wait until this gateway has sealed a message, and make the slot that runs the one to start from.
If no device has said anything by the end of the wait, it does that gatewayd has keys, that controld
reaches the control broker, and that no connection to the broker failed, for the last quarter of the
wait without a pause. Otherwise exit with 1: the next start is of the slot before. The appliance runs
this by itself.`,
	}
}

func upgradeCommand() *command {
	return &command{
		name: "upgrade", args: "IMAGE [flags]", short: "on an appliance, write an image to the slot that does not run, and try it", run: runUpgrade,
		long: `
Verify the image's signature, which an operator of this fleet made (` + "`sealctl upgrade sign`" + `),
or an operator of the fleet "vendor" whose CA the running image has in ` + vendorCA + `;
write it to the slot that does not run, and have the next start try it, once. It stays if the
gateway seals within two minutes; otherwise the slot that runs now is started again.`,
	}
}

// signatureOf is where the signature of an image is, unless a flag says otherwise.
func signatureOf(image string) string { return image + ".sig" }

// maxSignature bounds what is read of a signature's file.
const maxSignature = crypto.MaxChainBytes + 4<<10

func runUpgradeSign(env cmdenv.Env, c *command, args []string) error {
	var dir string
	o := newOptions(c)
	o.text(&dir, "i identity", "", "DIR", "identity directory of an operator")
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	if dir == "" {
		return usagef("-i DIR is missing: the identity directory of an operator")
	}
	id, _, _, err := member.LoadIdentity(dir)
	if err != nil {
		return err
	}
	if role := id.Member().Role; role != crypto.RoleOperator {
		return fmt.Errorf("identity %s is a %s's; appliances believe an operator", dir, role)
	}
	image, err := os.Open(o.args[0])
	if err != nil {
		return err
	}
	defer image.Close()
	r, err := slots.Measure(image)
	if err != nil {
		return fmt.Errorf("image %s: %w", o.args[0], err)
	}
	signed, err := id.Sign(r.Marshal(), slots.MessageType)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(signatureOf(o.args[0]), signed, 0o644); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, signatureOf(o.args[0]))
	return nil
}

// loaderDir is where the loader's partition is mounted while it is changed.
const loaderDir = "/run/sealgate-loader"

func runUpgrade(env cmdenv.Env, c *command, args []string) error {
	var conf, signature string
	var restart bool
	o := newOptions(c)
	o.text(&conf, "config", config.DefaultPath, "FILE", "sealgate.toml of this gateway (default "+config.DefaultPath+")")
	o.text(&signature, "signature", "", "FILE", "the image's signature (default: IMAGE.sig)")
	o.yes(&restart, "restart", "restart at once to try it")
	if err := o.parse(env, args, 1, 1); err != nil {
		return err
	}
	if signature == "" {
		signature = signatureOf(o.args[0])
	}
	running, trial, device, err := runningSlot()
	if err != nil {
		return err
	}
	cfg, err := config.Load(conf)
	if err != nil {
		return fmt.Errorf("%w: a new slot is kept only if the gateway seals; set it up first", err)
	}
	r, from, err := verifyImage(cfg, vendorCA, signature)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	target, err := running.Other().Partition(device)
	if err != nil {
		return err
	}
	image, slot, err := openBoth(o.args[0], target, r)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	defer image.Close()
	defer slot.Close()
	// From here on until all of it is there, the loader must not be pointed at it, whatever an earlier upgrade left.
	err = editLoader(device, func(block []byte) ([]byte, error) { return slots.Begin(block, running, trial) })
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "signed by %s %q; writing it to slot %s, %s\n", from.Role, from.Name, running.Other(), target)
	if err := writeSlot(env, image, slot, r); err != nil {
		return fmt.Errorf("%w; slot %s goes on, and is started from; slot %s is of no use until an upgrade succeeds", err, running, running.Other())
	}
	if err := tellLoader(device, "try", string(running.Other())); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "slot %s is written; the next start tries it\n", running.Other())
	if restart {
		unix.Sync()
		return unix.Kill(1, unix.SIGTERM)
	}
	return nil
}

// runningSlot finds the slot that runs, whether it was started on trial, and its partition.
func runningSlot() (running slots.Slot, trial bool, device string, err error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", false, "", err
	}
	if running, trial, err = slots.Running(string(cmdline)); err != nil {
		return "", false, "", err
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "", false, "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "/" && f[2] == "squashfs" {
			return running, trial, f[0], nil
		}
	}
	return "", false, "", errors.New("the root of this machine is no squashfs: it is no appliance")
}

// vendorCA is, in a slot, the certificate of whose images any appliance takes; there need be none.
const vendorCA = "/usr/share/sealgate/vendor.crt"

// vendorFleet is what the fleet of that CA is called. Its operators sign.
const vendorFleet = "vendor"

// verifyImage reads a signature, which must be by the vendor, or by an operator of this gateway's fleet whom its policy does not revoke.
func verifyImage(cfg *config.Config, vendor, file string) (slots.Release, crypto.Member, error) {
	refuse := func(err error) (slots.Release, crypto.Member, error) {
		return slots.Release{}, crypto.Member{}, fmt.Errorf("the image's signature %s: %w", file, err)
	}
	in, err := os.Open(file)
	if err != nil {
		return refuse(fmt.Errorf("%w; an operator makes it with `sealctl upgrade sign`", err))
	}
	defer in.Close()
	signed, err := io.ReadAll(io.LimitReader(in, maxSignature))
	if err != nil {
		return refuse(err)
	}
	payload, from, err := verifyVendor(vendor, signed)
	if err != nil {
		var fleetErr error
		if payload, from, fleetErr = verifyOperator(cfg, signed); fleetErr != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				fleetErr = fmt.Errorf("%w; nor is it the vendor's: %w", fleetErr, err)
			}
			return refuse(fleetErr)
		}
	}
	r, err := slots.ParseRelease(payload)
	if err != nil {
		return refuse(err)
	}
	return r, from, nil
}

func verifyVendor(file string, signed []byte) ([]byte, crypto.Member, error) {
	ca, err := os.ReadFile(file)
	if err != nil {
		return nil, crypto.Member{}, err
	}
	trust, err := crypto.NewTrust(vendorFleet, ca)
	if err != nil {
		return nil, crypto.Member{}, fmt.Errorf("%s: %w", file, err)
	}
	return trust.VerifyPolicySigner(signed, slots.MessageType, time.Now())
}

func verifyOperator(cfg *config.Config, signed []byte) ([]byte, crypto.Member, error) {
	_, trust, enrolled, err := member.LoadIdentity(cfg.Identity)
	if err != nil {
		return nil, crypto.Member{}, err
	}
	payload, from, err := trust.VerifyPolicySigner(signed, slots.MessageType, time.Now())
	if err != nil {
		return nil, crypto.Member{}, err
	}
	if p := member.Following(cfg.State, trust, enrolled, time.Now()); p != nil && p.Document.Revoked(from) {
		return nil, crypto.Member{}, fmt.Errorf("policy version %d revokes %s; have another operator sign the image", p.Document.Version, from)
	}
	return payload, from, nil
}

// openBoth opens an image, which must be what was signed, and the slot that it fits into.
func openBoth(file, target string, r slots.Release) (image *os.File, slot partition, err error) {
	if image, err = os.Open(file); err != nil {
		return nil, slot, err
	}
	defer func() {
		if err != nil {
			image.Close()
		}
	}()
	if got, err := slots.Measure(image); err != nil || got != r {
		return nil, slot, errors.Join(fmt.Errorf("%s is not what was signed", file), err)
	}
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		return nil, slot, err
	}
	// O_EXCL: nobody else has it open so, another upgrade for example, and it is not mounted.
	if slot.File, err = os.OpenFile(target, os.O_RDWR|unix.O_EXCL, 0); err != nil {
		return nil, slot, fmt.Errorf("open the slot: %w", err)
	}
	if room, err := slot.Seek(0, io.SeekEnd); err != nil || room < r.Size {
		slot.Close()
		return nil, slot, errors.Join(fmt.Errorf("%s has %d bytes, and the slot %s room for %d: a slot's image is named *.img.slot, beside that of a whole disk", file, r.Size, target, room), err)
	}
	return image, slot, nil
}

// partition is the device of a slot.
type partition struct{ *os.File }

// Sync has everything on the disk, and what is read afterwards come from there: from memory it would be what was given to the disk.
func (p partition) Sync() error {
	return errors.Join(p.File.Sync(), unix.Fadvise(int(p.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// writeSlot writes the image and shows how far it is.
func writeSlot(env cmdenv.Env, image io.Reader, slot partition, r slots.Release) error {
	shown := int64(-1)
	err := slots.Write(slot, image, r, func(done int64) {
		if tenth := 10 * done / r.Size; tenth > shown {
			shown = tenth
			fmt.Fprintf(env.Stderr, "%d %%\n", 10*tenth)
		}
	})
	return errors.Join(err, slot.Close())
}

// tellLoader sets values in the loader's file.
func tellLoader(slot string, pairs ...string) error {
	return editLoader(slot, func(block []byte) ([]byte, error) { return slots.Set(block, pairs...) })
}

// editLoader changes the loader's file. What changes is in one sector of the disk: a power cut leaves the old or the new.
func editLoader(slot string, edit func(block []byte) ([]byte, error)) (err error) {
	if err := os.MkdirAll(loaderDir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(slots.Loader(slot), loaderDir, "vfat", unix.MS_SYNCHRONOUS, ""); err != nil {
		return fmt.Errorf("mount the loader's partition %s: %w", slots.Loader(slot), err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(loaderDir, 0)) }()
	f, err := os.OpenFile(filepath.Join(loaderDir, "sealgate", "state"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	block, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return err
	}
	if block, err = edit(block); err != nil {
		return err
	}
	if _, err := f.WriteAt(block, 0); err != nil {
		return err
	}
	return f.Sync()
}

func runUpgradeKeep(env cmdenv.Env, c *command, args []string) error {
	var f statusFlags
	wait := 2 * time.Minute
	o := newOptions(c)
	f.daemonFlags.register(o)
	for _, n := range o.show("wait", "TIME", "how long the gateway has to seal (default 2m)") {
		o.fs.DurationVar(&wait, n, wait, "")
	}
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	running, _, device, err := runningSlot()
	if err != nil {
		return err
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	f.addr = cfg.Metrics.Listen
	if f.keylink == "" {
		f.keylink = cfg.Keylink
	}
	ctx, cancel := context.WithTimeout(env.Ctx, wait)
	defer cancel()
	if err := awaitSealing(ctx, wait, time.Second, f.ask); err != nil {
		return fmt.Errorf("slot %s does not work, and is not kept: %w", running, err)
	}
	if err := tellLoader(device, "good", string(running)); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "slot %s works, and is kept\n", running)
	return nil
}

// steady is the part of the time for which a gateway that no device has spoken to must have been in order, without a pause, to be kept.
const steady = 4

// awaitSealing waits for a sealed message. If there is none before ctx ends, wait later, it is content with a gateway that has been able to
// seal one, and whose controld has reached the control broker, for the last part of that time: a kernel without a driver, or a daemon that
// keeps ending, is not.
func awaitSealing(ctx context.Context, wait, every time.Duration, ask func(context.Context) statusReport) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var since time.Time // it has been in order; zero: it is not
	for end := errors.New("gatewayd has not been asked"); ; {
		report := ask(ctx)
		sealed, err := report.working()
		switch {
		case sealed:
			return nil
		case ctx.Err() != nil: // what was not answered was cut off
		case err != nil:
			since, end = time.Time{}, err
		case since.IsZero():
			since, end = time.Now(), errors.New("it has only just come to be in order")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !since.IsZero() && time.Since(since) >= wait/steady {
				return nil
			}
			return fmt.Errorf("no message was sealed within %v, and %w", wait, end)
		}
	}
}

// working tells whether a message was sealed; and if not, why there could be none, nil if there could.
func (r *statusReport) working() (sealed bool, err error) {
	var g gatewaydStatus
	var c controldStatus
	_, _ = json.Unmarshal(r.Gatewayd, &g), json.Unmarshal(r.Controld, &c)
	switch {
	case g.Traffic.Messages["up"]["seal"] > 0:
		return true, nil
	case len(r.Errors) > 0:
		return false, errors.New(strings.Join(r.Errors, "; "))
	case !g.Ready:
		return false, errors.New("gatewayd has no policy and keys")
	case !c.Connected:
		return false, errors.New("controld does not reach the control broker")
	case len(g.Traffic.Uplink) > 0:
		return false, fmt.Errorf("connections to the broker fail: %s", counts(g.Traffic.Uplink))
	}
	return false, nil
}
