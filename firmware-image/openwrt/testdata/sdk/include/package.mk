define BuildPackage
$(eval $(call Package/$(1)))
.PHONY: prepare compile install facts flags
prepare:
	$$(call Build/Prepare)
compile: prepare
	$$(call Build/Compile)
install: prepare
	mkdir -p $$(OUT)/root
	$$(call Package/$(1)/install,$$(OUT)/root)
	$$(RSTRIP) $$(OUT)/root
flags:
	@echo '$$(SEALGATE_GCFLAGS)'
facts:
	@echo '$(PKG_NAME) $$(PKG_VERSION)-r$$(PKG_RELEASE)'
	@echo '$(USERID)'
	@echo '$$(strip $(DEPENDS))'
	@echo '$$(strip $$(Package/$(1)/conffiles))'
	@echo '$$(PKG_BUILD_FLAGS) $$(PKG_BUILD_DEPENDS) $$(GO_PKG) $$(GO_PKG_BUILD_PKG)'
endef
