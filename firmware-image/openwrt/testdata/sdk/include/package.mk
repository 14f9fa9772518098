define BuildPackage
$(eval $(call Package/$(1)))
.PHONY: prepare install facts
prepare:
	$$(call Build/Prepare)
install: prepare
	mkdir -p $$(OUT)/root
	$$(call Package/$(1)/install,$$(OUT)/root)
facts:
	@echo '$(PKG_NAME) $$(PKG_VERSION)-r$$(PKG_RELEASE)'
	@echo '$(USERID)'
	@echo '$$(strip $(DEPENDS))'
	@echo '$$(strip $$(Package/$(1)/conffiles))'
	@echo '$$(PKG_BUILD_FLAGS) $$(PKG_BUILD_DEPENDS) $$(GO_PKG) $$(GO_PKG_BUILD_PKG)'
endef
