# A stand-in of ours for what the feeds' Makefiles use of OpenWrt's build system.
INCLUDE_DIR:=$(TOPDIR)/include
BUILD_DIR:=$(OUT)/build
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
CP:=cp -fpR
LN:=ln -sf
RSTRIP:=sh -c 'truncate -s 1 "$$1/usr/sbin/sealgate"' --
