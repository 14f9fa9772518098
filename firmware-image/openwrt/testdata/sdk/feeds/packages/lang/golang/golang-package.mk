GO_ARCH_DEPENDS:=@(aarch64||arm||mips||mipsel||x86_64)
GO_PKG_BUILD_BIN_DIR:=$(OUT)/bin
define GoBinPackage
endef
