// Package ipk writes the packages that opkg installs (OpenWrt up to 24.10).
//
// An .ipk is a gzip of a tar of three members: ./debian-binary, which says "2.0"; ./data.tar.gz, the files; ./control.tar.gz,
// what opkg is to know of them and the scripts that it runs. What is written depends on the contents alone: entries are sorted,
// belong to root, and bear the one time that is given, so the same files are the same bytes on every machine.
package ipk

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// File is one file of a package, or a link if Link is set.
type File struct {
	Path string      // where it is installed, absolute and clean: "/etc/config/sealgate"
	Mode fs.FileMode // permission bits; not used for a link
	Body []byte
	Link string // what the link leads to
}

// Package is what goes into one .ipk.
type Package struct {
	Name, Version, Architecture string

	// Control is the other fields of the control file, in the order given, with Description last: lines "Name: text",
	// further lines of one field begin with a space. Installed-Size is added.
	Control   string
	Conffiles []string // paths of Files that an upgrade leaves as the user has them
	Postinst  string   // commands of the package's own, for the shell, after those that every package has; may be empty
	Files     []File
}

// The scripts that OpenWrt's own build puts into every package: they make the accounts that Require-User names, run what is in
// /etc/uci-defaults, and enable and start what is in /etc/init.d; before removal they stop and disable it.
const (
	postinst = "#!/bin/sh\n[ \"${IPKG_NO_SCRIPT}\" = \"1\" ] && exit 0\n[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n" +
		". ${IPKG_INSTROOT}/lib/functions.sh\ndefault_postinst $0 $@\n"
	prerm = "#!/bin/sh\n[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n. ${IPKG_INSTROOT}/lib/functions.sh\ndefault_prerm $0 $@\n"
)

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	versionForm = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~]*-r[0-9]+$`)
	archForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	fieldForm   = regexp.MustCompile(`^([A-Z][A-Za-z-]*: \S.*| .+)$`)
)

// FileName is the name under which opkg's feeds have the package.
func (p *Package) FileName() string { return p.Name + "_" + p.Version + "_" + p.Architecture + ".ipk" }

// Write writes the package. All entries bear the time at, in whole seconds.
func (p *Package) Write(w io.Writer, at time.Time) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	at = time.Unix(at.Unix(), 0).UTC()
	data, err := archive(p.Files, at)
	if err != nil {
		return err
	}
	members := []File{
		{Path: "/control", Mode: 0o644, Body: p.controlFile()},
		{Path: "/postinst", Mode: 0o755, Body: []byte(postinst)},
		{Path: "/prerm", Mode: 0o755, Body: []byte(prerm)},
	}
	if p.Postinst != "" {
		members = append(members, File{Path: "/postinst-pkg", Mode: 0o755, Body: []byte(p.Postinst)}) // which default_postinst looks for
	}
	if len(p.Conffiles) > 0 {
		members = append(members, File{Path: "/conffiles", Mode: 0o644, Body: []byte(strings.Join(slices.Sorted(slices.Values(p.Conffiles)), "\n") + "\n")})
	}
	control, err := archive(members, at)
	if err != nil {
		return err
	}
	return pack(w, at, []File{
		{Path: "/debian-binary", Mode: 0o644, Body: []byte("2.0\n")},
		{Path: "/data.tar.gz", Mode: 0o644, Body: data},
		{Path: "/control.tar.gz", Mode: 0o644, Body: control},
	})
}

// check refuses what opkg would misread.
func (p *Package) check() error {
	var errs []error
	for _, f := range []struct {
		what, value string
		form        *regexp.Regexp
	}{{"name", p.Name, nameForm}, {"version", p.Version, versionForm}, {"architecture", p.Architecture, archForm}} {
		if !f.form.MatchString(f.value) {
			errs = append(errs, fmt.Errorf("%s %q does not look like %s", f.what, f.value, f.form))
		}
	}
	for line := range strings.Lines(p.Control) {
		if line = strings.TrimSuffix(line, "\n"); !fieldForm.MatchString(line) {
			errs = append(errs, fmt.Errorf("control: line %q is neither \"Field: text\" nor a further line that begins with a space", line))
		}
	}
	seen := map[string]bool{}
	for _, f := range p.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			errs = append(errs, fmt.Errorf("file %q: not a clean absolute path", f.Path))
		}
		if seen[f.Path] {
			errs = append(errs, fmt.Errorf("file %s is there twice", f.Path))
		}
		seen[f.Path] = true
	}
	for _, c := range p.Conffiles {
		if !seen[c] {
			errs = append(errs, fmt.Errorf("conffile %s is no file of the package", c))
		}
	}
	return errors.Join(errs...)
}

func (p *Package) controlFile() []byte {
	size := 0
	for _, f := range p.Files {
		size += len(f.Body)
	}
	fields, description := p.Control, ""
	if i := strings.Index(fields, "Description: "); i >= 0 {
		fields, description = fields[:i], fields[i:]
	}
	return fmt.Appendf(nil, "Package: %s\nVersion: %s\n%sArchitecture: %s\nInstalled-Size: %d\n%s", p.Name, p.Version, fields, p.Architecture, size, description)
}

// archive is a gzip of a tar of files, with the directories that they are in before them.
func archive(files []File, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	if err := pack(&b, at, withParents(files)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// withParents is files sorted by path, and the directories that they are in, which are those of mode ModeDir.
func withParents(files []File) []File {
	all := slices.Clone(files)
	seen := map[string]bool{}
	for _, f := range files {
		for dir := path.Dir(f.Path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			all = append(all, File{Path: dir, Mode: fs.ModeDir | 0o755})
		}
	}
	slices.SortFunc(all, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return all
}

// pack writes files, in this order, as a gzipped tar.
func pack(w io.Writer, at time.Time, files []File) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Name: "." + f.Path, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Body)), ModTime: at, Uname: "root", Gname: "root", Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		switch {
		case f.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(h.Name, "/")+"/"
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode, h.Size, f.Body = tar.TypeSymlink, f.Link, 0o777, 0, nil
		}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if _, err := t.Write(f.Body); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// Tree reads the files below the root of fsys, each to be installed at its own path below prefix. What may be executed there is 0755, all
// else 0644.
func Tree(fsys fs.FS, prefix string) (files []File, err error) {
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not an ordinary file", name)
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		body, err := fs.ReadFile(fsys, name)
		files = append(files, File{Path: path.Join("/", prefix, name), Mode: mode, Body: body})
		return err
	})
	return files, err
}
