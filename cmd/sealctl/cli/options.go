package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"sealgate/cmd/internal/cmdenv"
)

// options are a command's flags. Unlike package flag alone, flags may also follow
// positional arguments, and one flag may have a short and a long name.
type options struct {
	c     *command
	fs    *flag.FlagSet
	shown []shownFlag
	args  []string  // positional arguments, after parse
	open  *property // a flag of several arguments that parse has yet to read
}

// shownFlag is a line of the help.
type shownFlag struct{ names, usage string }

func newOptions(c *command) *options {
	o := &options{c: c, fs: flag.NewFlagSet(c.name, flag.ContinueOnError)}
	o.fs.SetOutput(io.Discard)
	o.fs.Usage = func() {}
	return o
}

// show adds the help line of flags that share a variable: names like "t topic", value like "FILTER".
func (o *options) show(names, value, usage string) []string {
	list := strings.Fields(names)
	dashed := make([]string, len(list))
	for i, n := range list {
		dashed[i] = "-" + n
		if len(n) > 1 {
			dashed[i] = "--" + n
		}
	}
	line := strings.Join(dashed, ", ")
	if value != "" {
		line += " " + value
	}
	o.shown = append(o.shown, shownFlag{line, usage})
	return list
}

func (o *options) text(p *string, names, def, value, usage string) {
	for _, n := range o.show(names, value, usage) {
		o.fs.StringVar(p, n, def, usage)
	}
}

func (o *options) number(p *int, names string, def int, value, usage string) {
	for _, n := range o.show(names, value, usage) {
		o.fs.IntVar(p, n, def, usage)
	}
}

func (o *options) yes(p *bool, names, usage string) {
	for _, n := range o.show(names, "", usage) {
		o.fs.BoolVar(p, n, false, usage)
	}
}

func (o *options) list(p *[]string, names, value, usage string) {
	for _, n := range o.show(names, value, usage) {
		o.fs.Func(n, usage, func(s string) error { *p = append(*p, s); return nil })
	}
}

// parse parses args, which may have from least to most positional ones. It returns
// flag.ErrHelp after having shown the help, or a usage error.
func (o *options) parse(env cmdenv.Env, args []string, least, most int) error {
	for len(args) > 0 {
		if err := o.fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				o.help(env.Stdout)
				return err
			}
			text := strings.Replace(err.Error(), "flag provided but not defined: ", "unknown flag ", 1)
			return usagef("%s; `sealctl %s -h` lists the flags", text, o.c.name)
		}
		args = o.fs.Args()
		if o.open != nil {
			var err error
			if args, err = o.open.take(args); err != nil {
				return err
			}
			o.open = nil
		} else if len(args) > 0 {
			o.args, args = append(o.args, args[0]), args[1:]
		}
	}
	switch n := len(o.args); {
	case n > most && most == 0:
		return usagef("unexpected argument %q; usage: sealctl %s %s", o.args[0], o.c.name, o.c.args)
	case n > most:
		return usagef("unexpected argument %q; usage: sealctl %s %s", o.args[most], o.c.name, o.c.args)
	case n < least:
		return usagef("an argument is missing; usage: sealctl %s %s", o.c.name, o.c.args)
	}
	return nil
}

// given reports whether the user set one of the flags.
func (o *options) given(names ...string) (yes bool) {
	o.fs.Visit(func(f *flag.Flag) {
		for _, n := range names {
			yes = yes || f.Name == n
		}
	})
	return yes
}

func (o *options) help(w io.Writer) {
	fmt.Fprintf(w, "usage: sealctl %s %s\n\n", o.c.name, o.c.args)
	text := o.c.long
	if text == "" {
		text = strings.ToUpper(o.c.short[:1]) + o.c.short[1:] + "."
	}
	fmt.Fprintf(w, "%s\n", strings.TrimSpace(text))
	if len(o.shown) > 0 {
		fmt.Fprintln(w)
	}
	for _, f := range o.shown {
		fmt.Fprintf(w, "  %-28s %s\n", f.names, f.usage)
	}
}
