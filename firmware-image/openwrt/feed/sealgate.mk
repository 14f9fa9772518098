# What both feeds have in common: the version, what the package needs, its files. Included after rules.mk.
#
# The feed is a link to this folder, a line `src-link sealgate .../firmware-image/openwrt/feed/25.12` in feeds.conf: the source is the
# tree that it lies in, and nothing of ours is fetched.

SEALGATE_DIR:=$(abspath $(dir $(lastword $(MAKEFILE_LIST)))/../../..)
SEALGATE_FILES:=$(SEALGATE_DIR)/firmware-image/openwrt/sealgate

PKG_NAME:=sealgate
PKG_VERSION:=$(shell TZ=UTC git -C $(SEALGATE_DIR) log -1 --format=%cd --date=format-local:0.%Y%m%d.%H%M%S)
PKG_RELEASE:=1
PKG_BUILD_DIR=$(BUILD_DIR)/$(PKG_NAME)-$(PKG_VERSION)

# What pkg/confine and `make dist` know.
SEALGATE_ARCH_DEPENDS:=@(aarch64||arm||mips||mipsel||x86_64)

# The names of the ipk's control file, without libc: the build adds that.
SEALGATE_DEPENDS:=$(shell sed -n 's/^Depends: libc, //p' $(SEALGATE_FILES)/control | tr -d ,)

define Package/sealgate
  SECTION:=net
  CATEGORY:=Network
  TITLE:=End-to-end encryption for MQTT, put in line
  USERID:=sealgate=5883:sealgate=5883 sealgatectl=5884:sealgate=5883
  DEPENDS:=$(SEALGATE_ARCH_DEPENDS) $(addprefix +,$(SEALGATE_DEPENDS))
endef

define Package/sealgate/description
  A gateway that seals what devices publish, between them and a broker that cannot read it.
endef

define Package/sealgate/conffiles
/etc/config/sealgate
endef

# SEALGATE_BINARY is set by the feed.
define Package/sealgate/install
	$(CP) $(SEALGATE_FILES)/files/. $(1)/
	$(INSTALL_DIR) $(1)/usr/sbin $(1)/etc/sealgate $(1)/usr/share/nftables.d/ruleset-post
	$(INSTALL_BIN) $(SEALGATE_BINARY) $(1)/usr/sbin/sealgate
	$(LN) sealgate $(1)/usr/sbin/gatewayd
	$(LN) sealgate $(1)/usr/sbin/controld
	$(LN) sealgate $(1)/usr/sbin/sealctl
	$(LN) /var/run/sealgate/sealgate.toml $(1)/etc/sealgate/sealgate.toml
	$(LN) /var/run/sealgate/guard.nft $(1)/usr/share/nftables.d/ruleset-post/50-sealgate.nft
endef
