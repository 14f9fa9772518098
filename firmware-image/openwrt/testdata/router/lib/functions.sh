# Stand-ins of ours for what OpenWrt's /lib/functions.sh and procd's functions do. Options are files below /uci: a value is in
# PACKAGE/SECTION/OPTION, the items of a list in OPTION.1, OPTION.2 and so on. What procd would be told is recorded in /log, one call a
# line, the words between bars.
# shellcheck shell=dash disable=SC3043

record() {
	local line='' word
	for word; do line="$line|$word"; done
	printf '%s\n' "${line#|}" >>/log
}

config_load() { _package=$1; }

config_get() { # VARIABLE SECTION OPTION [DEFAULT]
	local _read=''
	[ ! -f "/uci/$_package/$2/$3" ] || _read=$(cat "/uci/$_package/$2/$3"; echo .)
	_read=${_read%.}
	[ -n "$_read" ] || _read=$4
	eval "$1=\$_read"
}

config_get_bool() {
	local _bool
	config_get _bool "$2" "$3" "$4"
	case "$_bool" in 1 | on | true | yes | enabled) eval "$1=1" ;; 0 | off | false | no | disabled) eval "$1=0" ;; *) eval "$1=\$4" ;; esac
}

config_list_foreach() { # SECTION OPTION FUNCTION [ARGUMENTS]
	local _section=$1 _option=$2 _function=$3 _n=1 _item
	shift 3
	while [ -f "/uci/$_package/$_section/$_option.$_n" ]; do
		config_get _item "$_section" "$_option.$_n"
		"$_function" "$_item" "$@"
		_n=$((_n + 1))
	done
}

group_exists() { grep -qs "^$1:" /etc/group; }
group_add() { echo "$1:x:$2:" >>/etc/group; }
user_exists() { grep -qs "^$1:" /etc/passwd; }
user_add() { echo "$1:x:$2:$3:$4:$5:/bin/false" >>/etc/passwd; }

uci() {
	local file item n=1
	[ "$1" != -q ] || shift
	item=${2%%=*}
	file=/uci/$(echo "$item" | tr . /)
	case "$1" in
	get) cat "$file" 2>/dev/null || cat "$file".* 2>/dev/null ;;
	add_list)
		while [ -f "$file.$n" ]; do n=$((n + 1)); done
		mkdir -p "${file%/*}"
		printf %s "${2#*=}" >"$file.$n"
		;;
	set)
		mkdir -p "${file%/*}"
		case "$item" in *.*.*) printf %s "${2#*=}" >"$file" ;; esac
		;;
	commit) record uci commit "$2" ;;
	esac
}

# What every package's postinst and prerm call. opkg sets PKG_UPGRADE when another version of the package comes or goes.
of_package() { grep "^$1" /usr/lib/opkg/info/sealgate.list; }
default_postinst() {
	local script
	for script in $(of_package /etc/uci-defaults/); do
		# shellcheck disable=SC1090
		[ ! -e "$script" ] || { ( . "$script" ) && rm -f "$script"; }
	done
	for script in $(of_package /etc/init.d/); do
		[ "$PKG_UPGRADE" = 1 ] || "$script" enable
		"$script" start
	done
}
default_prerm() {
	local script
	for script in $(of_package /etc/init.d/); do
		[ "$PKG_UPGRADE" = 1 ] || "$script" disable
		"$script" stop
	done
}

logger() { record logger "$@"; }

for _name in open_instance close_instance set_param add_jail add_jail_mount add_jail_mount_rw add_reload_trigger send_signal; do
	eval "procd_$_name() { record $_name \"\$@\"; }"
done
procd_running() { [ -e /running ]; }
