# What procd does with what it is told, in the tests that want the daemons to run: an instance is started unless it runs, and ended. It
# starts nothing again by itself, so that a test says when. A daemon's own words go to /tmp/NAME.log.
# shellcheck shell=dash disable=SC3043

# told NAME PARAMETER: what the last instance of that name was told, words between spaces.
told() {
	awk -F '|' -v name="$1" -v parameter="$2" '
		$1 == "open_instance" { on = $2 == name; if (on) said = "" }
		on && $1 == "set_param" && $2 == parameter { said = substr($0, length($1 $2) + 3); gsub(/\|/, " ", said) }
		END { print said }' /log
}

alive() { [ -s "/var/run/$1.pid" ] && kill -0 "$(cat "/var/run/$1.pid")" 2>/dev/null; }

live() {
	local command user
	command=$(told "$1" command) user=$(told "$1" user)
	[ -n "$command" ] && ! alive "$1" || return 0
	: >>"/tmp/$1.log"
	chmod 666 "/tmp/$1.log"
	start-stop-daemon -S -b -m -p "/var/run/$1.pid" ${user:+-c "$user:$(told "$1" group)"} -x /bin/sh -- -c "exec $command 2>>/tmp/$1.log"
}

end() {
	[ ! -s "/var/run/$1.pid" ] || kill "$(cat "/var/run/$1.pid")" 2>/dev/null
	while alive "$1"; do usleep 20000; done
	rm -f "/var/run/$1.pid"
}
