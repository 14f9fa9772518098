# As golang-package.mk does where a package says nothing else: a program of cgo, linked by the C compiler.
GO_ARCH_DEPENDS:=@(aarch64||arm||i386||i686||loongarch64||mips||mips64||mips64el||mipsel||riscv64||x86_64)
GO_PKG_BUILD_BIN_DIR:=$(OUT)/bin
GO_PKG_VARS=CGO_ENABLED=1 GOTOOLCHAIN=local
GO_PKG_DEFAULT_LDFLAGS=-linkmode external
GO_PKG_INSTALL_ARGS=-buildvcs=false -trimpath $(if $(filter 0,$(PKG_ASLR_PIE)),,-buildmode pie) -ldflags "all=$(GO_PKG_DEFAULT_LDFLAGS)"
define Build/Compile
	mkdir -p $(PKG_BUILD_DIR)/.go_work/build
	cd $(PKG_BUILD_DIR)/.go_work/build && $(GO_PKG_VARS) GOBIN=$(GO_PKG_BUILD_BIN_DIR) go install $(GO_PKG_INSTALL_ARGS) $(GO_PKG_BUILD_PKG)
endef
define GoBinPackage
endef
