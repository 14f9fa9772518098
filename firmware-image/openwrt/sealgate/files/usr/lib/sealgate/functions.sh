#!/bin/sh
# What the init scripts and the tools of this package share: sealgate.toml from UCI, and the guard. To be read after /lib/functions.sh.
#
# Nothing of what UCI says is ever run or expanded: values are quoted for TOML, and what has no place there is refused by its name.
# shellcheck shell=dash disable=SC3043,SC3037,SC2034,SC1091,SC2154 # busybox ash, with local

SEALGATE_RUN=/var/run/sealgate
SEALGATE_TOML=$SEALGATE_RUN/sealgate.toml
SEALGATE_GUARD=$SEALGATE_RUN/guard.nft # read by fw4 through a link in /usr/share/nftables.d/ruleset-post

# The keys of sealgate.toml: section in UCI, name, kind. What is not set in UCI is not written.
SEALGATE_KEYS='
main fleet text
main identity text
main state text
main keep text
main note_clock bool
steer mode text
steer lan texts
steer uplink texts
steer bridge text
steer ethertypes hexes
steer ports numbers
steer listen text
steer spoof_source bool
uplink broker texts
uplink tls bool
uplink port number
uplink ca text
uplink server_name text
uplink cert text
uplink key text
control broker texts
control prefix text
control ca text
control server_name text
control username text
control password_file text
control cert text
control key text
downlink tell_status bool
limits max_message text
limits max_connections number
limits connect_timeout text
limits drain text
devices deny texts
devices rate text
devices burst number
devices metrics bool
metrics listen text
'

sealgate_log() {
	logger -t sealgate -p daemon.err "$*"
	echo "sealgate: $*" >&2
}

# sealgate_text VALUE: a string of TOML. Control characters cannot be meant, and line breaks would end it.
sealgate_text() {
	case "$1" in *[[:cntrl:]]*) return 1 ;; esac
	printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"
}

sealgate_number() {
	case "$1" in '' | *[!0-9]* | 0?* | ???????????*) return 1 ;; esac
	printf '%s' "$1"
}

# sealgate_hex VALUE: an ethertype, such as 0x88cc.
sealgate_hex() {
	case "$1" in 0x | 0x*[!0-9A-Fa-f]* | 0x?????*) return 1 ;; 0x*) printf '%s' "$1" ;; *) return 1 ;; esac
}

sealgate_bool() {
	case "$1" in
	1 | on | true | yes | enabled) printf true ;;
	0 | off | false | no | disabled) printf false ;;
	*) return 1 ;;
	esac
}

# sealgate_item VALUE QUOTE: adds VALUE, as QUOTE has it, to $items.
sealgate_item() {
	local quoted
	if quoted=$("$2" "$1"); then items="${items:+$items, }$quoted"; else bad="$1"; fi
}

# sealgate_items SECTION OPTION QUOTE: a list. An option takes the place of a list of one.
sealgate_items() {
	local items='' bad='' one=''
	config_list_foreach "$1" "$2" sealgate_item "$3"
	if [ -z "$items$bad" ]; then
		config_get one "$1" "$2"
		[ -z "$one" ] || sealgate_item "$one" "$3"
	fi
	[ -z "$bad" ] || return 1
	[ -z "$items" ] || printf '[%s]' "$items"
}

# sealgate_value SECTION OPTION KIND: the value as TOML; nothing if it is not set.
sealgate_value() {
	local value
	case "$3" in
	texts) sealgate_items "$1" "$2" sealgate_text; return ;;
	numbers) sealgate_items "$1" "$2" sealgate_number; return ;;
	hexes) sealgate_items "$1" "$2" sealgate_hex; return ;;
	esac
	config_get value "$1" "$2"
	[ -n "$value" ] || return 0
	"sealgate_$3" "$value"
}

# sealgate_body: prints sealgate.toml; fails after it has said what is wrong in UCI.
sealgate_body() {
	local section key kind value before=main failed=0
	echo "# Made of /etc/config/sealgate at each start. Change it there."
	config_get value main user sealgate
	if [ "$value" != root ]; then
		if value=$(sealgate_text "$value"); then echo "user = $value"; else sealgate_refuse main user; fi
	fi
	echo "keylink = \"$SEALGATE_RUN/link/keylink.sock\""
	while read -r section key kind; do
		[ -n "$kind" ] || continue
		value=$(sealgate_value "$section" "$key" "$kind") || { sealgate_refuse "$section" "$key"; continue; }
		[ -n "$value" ] || continue
		[ "$section" = "$before" ] || printf '\n[%s]\n' "$section"
		before=$section
		echo "$key = $value"
	done <<-END
	$SEALGATE_KEYS
	END
	return "$failed"
}

sealgate_refuse() {
	sealgate_log "/etc/config/sealgate: option $2 of section $1 has a value that cannot be used"
	failed=1
}

# sealgate_toml: writes sealgate.toml anew; with mistakes in UCI it stays as it was.
sealgate_toml() {
	sealgate_body >"$SEALGATE_TOML.new" || { rm -f "$SEALGATE_TOML.new"; return 1; }
	chmod 640 "$SEALGATE_TOML.new"
	chgrp sealgate "$SEALGATE_TOML.new"
	mv "$SEALGATE_TOML.new" "$SEALGATE_TOML"
}

# sealgate_directories: what the daemons need, and nothing outside /etc/sealgate and /var/run. Where only controld writes is a directory of its
# own: it must not be able to put another configuration before gatewayd, which begins as root.
sealgate_directories() {
	local dir file user group
	user=$(id -u sealgatectl) && group=$(id -g sealgatectl) || return 1
	mkdir -p "$SEALGATE_RUN" && sealgate_give "$SEALGATE_RUN" "0:$group" 750 drwxr-x--- || return 1
	mkdir -p "$SEALGATE_RUN/link" && sealgate_give "$SEALGATE_RUN/link" "$user:$group" 750 drwxr-x--- || return 1
	config_get dir main state /etc/sealgate/state
	if sealgate_ours "$dir"; then
		mkdir -p "$dir" && sealgate_give "$dir" "$user:$group" 700 drwx------ || return 1
	fi
	config_get dir main identity /etc/sealgate/identity
	sealgate_ours "$dir" || return 0
	mkdir -p "$dir" && sealgate_give "$dir" "$user:$group" 750 drwxr-x--- || return 1
	for file in ca.crt identity.crt policy.cose; do
		[ ! -e "$dir/$file" ] || sealgate_give "$dir/$file" "$user:$group" 640 -rw-r-----
	done
	for file in identity.key topic.key; do
		[ ! -e "$dir/$file" ] || sealgate_give "$dir/$file" "$user:$group" 600 -rw-------
	done
	return 0
}

# sealgate_ours DIR: it is below /etc/sealgate, and may be given to the daemons. Elsewhere that is the user's.
sealgate_ours() {
	case "$1/" in */../*) return 1 ;; /etc/sealgate/?*) return 0 ;; esac
	return 1
}

# sealgate_give FILE UID:GID MODE LOOK: unless ls shows it to be so already: flash is not written for nothing.
sealgate_give() {
	local look links owner group rest
	[ ! -L "$1" ] || return 1
	read -r look links owner group rest <<-END
	$(ls -ldn "$1")
	END
	[ "$owner:$group" = "$2" ] || chown -h "$2" "$1" || return 1
	[ "${look%%[!drwx-]*}" = "$4" ] || chmod "$3" "$1"
}

sealgate_enabled() {
	local enabled
	config_load sealgate
	config_get_bool enabled main enabled 0
	[ "$enabled" = 1 ]
}

sealgate_enrolled() {
	local identity
	config_get identity main identity /etc/sealgate/identity
	[ -s "$identity/identity.key" ] && [ -s "$identity/identity.crt" ]
}

# sealgate_port PORT: adds it to $ports if it is one.
sealgate_port() {
	sealgate_number "$1" >/dev/null && [ "$1" -ge 1 ] && [ "$1" -le 65535 ] && ports="${ports:+$ports, }$1"
	return 0
}

# sealgate_plain_toml: prints a configuration that has nothing but the ports that are ports, or else 1883.
sealgate_plain_toml() {
	local ports=''
	config_list_foreach steer ports sealgate_port
	printf 'fleet = "none"\nidentity = "/etc/sealgate/identity"\n[steer]\nlan = ["none"]\nports = [%s]\n' "${ports:-1883}"
}

# sealgate_guard: nothing of the devices is forwarded from here on, whatever comes, and if the configuration has mistakes. The file is for
# fw4, which takes all tables away when it is stopped (`fw4 flush`): it puts back what `gatewayd -setup` has made, word for word.
sealgate_guard() {
	local mode said code
	config_get mode steer mode tc
	if [ "$mode" = listen ]; then
		rm -f "$SEALGATE_GUARD"
		return 0
	fi
	said=$(/usr/sbin/gatewayd -setup -config "$SEALGATE_TOML" 2>&1)
	code=$?
	[ "$code" = 0 ] || sealgate_log "gatewayd -setup: $said"
	# Code 2 is a mistake in the configuration. With 1 the guard is up as a rule, and the kernel lacks what the mode needs besides.
	if [ "$code" = 2 ] || ! sealgate_guarded; then
		sealgate_plain_toml >"$SEALGATE_RUN/guard.toml"
		/usr/sbin/gatewayd -setup -config "$SEALGATE_RUN/guard.toml" >/dev/null 2>&1
		sealgate_guarded || { sealgate_log "THE GUARD COULD NOT BE PUT UP"; return 1; }
	fi
	sealgate_snippet >"$SEALGATE_GUARD.new"
	mv "$SEALGATE_GUARD.new" "$SEALGATE_GUARD"
}

# sealgate_stands: the guard, and the policy route of the modes that have one.
sealgate_stands() {
	local mode
	config_get mode steer mode tc
	[ "$mode" = listen ] || { sealgate_guarded && { [ "$mode" = nfqueue ] || ip rule show | grep -q 'lookup 24225'; }; }
}

sealgate_guarded() { nft list chain inet sealgate guard >/dev/null 2>&1; }

# sealgate_snippet: prints what brings the guards back to what they are now, in one step: that of all packets, and in a bridge that of its
# ports. Where nft cannot write all of a table down, as targets of iptables, it is the guard alone, and the rest stays. What nft could
# not read back would keep fw4 from starting.
sealgate_snippet() {
	local family table set chain
	for family in inet bridge; do
		table=$(nft -s list table "$family" sealgate 2>/dev/null) || continue
		table="table $family sealgate
delete table $family sealgate
$table"
		if echo "$table" | nft -c -f - 2>/dev/null; then
			echo "$table"
		elif [ "$family" = inet ]; then
			set=$(nft -s list set inet sealgate ports)
			chain=$(nft -s list chain inet sealgate guard)
			printf '%s\n%s\nflush chain inet sealgate guard\n%s\n' "$set" "$chain" "$chain"
		fi
	done
}
