# Sealgate. `make` lists what there is; `make demo` and `make test` do all their own set-up.

SHELL       := /bin/sh
GO          ?= go
COMMANDS    := gatewayd controld sealctl
BIN         := $(CURDIR)/bin
LDFLAGS     := -s -w
BUILD       := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)"
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# A release binary must fit a router's flash: 9 MB, in the units that flash is sold in. What no message passes through in a gateway goes without inlining, which
# makes it smaller; the data path and its ciphers keep it. Of pkg/policy messages use the table alone, and those of a sealed topic ask it once.
MAX_BYTES   := 9437184
COLD        := github.com/... fmt math/big encoding/json encoding/asn1 log/slog crypto/x509 vendor/golang.org/x/crypto/cryptobyte net/url flag \
	reflect os strconv net encoding/hex encoding/base64 encoding/pem time crypto/rsa crypto/ecdsa $(patsubst %,crypto/internal/fips140/%,rsa ecdsa drbg) \
	net/http mime/... vendor/golang.org/x/net/... vendor/golang.org/x/text/... debug/... compress/... internal/zstd context strings syscall os/user \
	crypto/elliptic crypto/internal/fips140/bigmod crypto/hpke crypto/ecdh crypto/internal/fips140/ecdh crypto/ed25519 golang.org/x/sys/unix \
	sealgate/cmd/... sealgate/bpf \
	$(patsubst %,sealgate/pkg/%,atomicfile boottime checkpoint config confine control counters enrol/... keylink member policy steer strictoml)
PLATFORMS   := linux/amd64 linux/arm64 linux/arm linux/mipsle linux/mips

# Tests may skip on a laptop, for want of root or a program; nowhere else.
REQUIRE     := $(shell if [ "$(CI)" = true ] || [ "$$(id -u)" = 0 ]; then echo 1; fi)
FUZZTIME    ?= 60s
FUZZJOBS    ?= 2

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages that tests and demo use (as root; else say what is missing)
	@./test/setup.sh

.PHONY: build
build: ## build gatewayd, controld and sealctl into bin/
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/ $(COMMANDS:%=./cmd/%)

.PHONY: build-all
build-all: ## build for five architectures into dist/, and hold the sizes
	@fail=0; for platform in $(PLATFORMS); do \
		dir=dist/$$(echo $$platform | tr / -); mkdir -p $$dir; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} GOARM=7 GOMIPS=softfloat $(BUILD) $(COLD:%=-gcflags=%=-l) -o $$dir/ $(COMMANDS:%=./cmd/%) || exit 1; \
		for command in $(COMMANDS); do \
			size=$$(wc -c < $$dir/$$command); printf '%-13s %-9s %9d bytes\n' $$platform $$command $$size; \
			if [ $$size -ge $(MAX_BYTES) ]; then echo "  over the limit of $(MAX_BYTES) bytes"; fail=1; fi; \
		done; \
	done; exit $$fail

# One file for flash. In a squashfs with xz, as a router's flash holds it, it may take so much on mipsle:
MAX_FLASH   := 3200000

.PHONY: dist
dist: ## the three programs in one file `sealgate` for five architectures, into dist/, and hold its size in flash
	@GO='$(GO)' LDFLAGS='$(LDFLAGS)' FLAGS='$(COLD:%=-gcflags=%=-l)' MAX_FLASH=$(MAX_FLASH) firmware-image/dist.sh dist $(PLATFORMS)

.PHONY: flags
flags: # the compiler's flags of `dist`, for OpenWrt's feed
	@echo '$(COLD:%=-gcflags=%=-l)'

.PHONY: ipk
ipk: dist ## packages for OpenWrt's opkg, of every architecture, into dist/openwrt/
	@$(GO) run ./firmware-image/mkipk -time "$$(git log -1 --format=%ct)"

.PHONY: luci-screens
luci-screens: setup ## pictures of the pages of the web interface, with a stand-in around them, into dist/screens/
	@mkdir -p dist/screens && SEALGATE_REQUIRE=1 SEALGATE_SCREENS=$(CURDIR)/dist/screens $(GO) test -count=1 -run 'Page' ./firmware-image/openwrt

.PHONY: reproduce
reproduce: dist
	@firmware-image/reproduce.sh dist linux/mipsle

.PHONY: image
image: image-x86_64 image-arm64 ## the appliance's disk images for x86-64 and arm64, into dist/ (image-x86_64, image-arm64: one); needs no root

.PHONY: image-x86_64
image-x86_64:
	@$(MAKE) --no-print-directory -s dist PLATFORMS=linux/amd64
	@firmware-image/appliance/build.sh amd64 dist/sealgate-x86_64.img dist/sealgate-linux-amd64

.PHONY: image-arm64
image-arm64:
	@$(MAKE) --no-print-directory -s dist PLATFORMS=linux/arm64
	@firmware-image/appliance/build.sh arm64 dist/sealgate-arm64.img dist/sealgate-linux-arm64

.PHONY: image-mipsel
image-mipsel: ## a disk for an emulated MIPS machine, which has no loader; for the tests alone
	@$(MAKE) --no-print-directory -s dist PLATFORMS=linux/mipsle
	@firmware-image/appliance/build.sh mipsel dist/sealgate-mipsel.img dist/sealgate-linux-mipsle

.PHONY: test-firmware
test-firmware: build ## boot the image in an emulated machine, set it up, cut its power; everything captured (as root)
	@./test/setup.sh firmware
	@$(MAKE) --no-print-directory image image-mipsel
	SEALGATE_BIN=$(BIN) SEALGATE_IMAGE=$(CURDIR)/dist/sealgate-x86_64.img SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -count=1 -v -parallel 3 -timeout 30m ./test/firmware

.PHONY: generate
generate: ## compile the BPF programs anew (needs clang and llvm; the objects are committed)
	$(GO) generate ./bpf/...

.PHONY: demo
demo: build ## the main job, from an unmodified publisher through a broker that cannot read it to a subscriber
	@./test/setup.sh demo
	@SEALGATE_BIN=$(BIN) $(GO) run ./test/demo

# Packages mostly wait, for time-outs that are tested: four at once keep two cores busy. The longest comes first.
.PHONY: test
test: setup build ## all tests, and the test vectors once more with the implementation in Python
	@if [ -n "$(REQUIRE)" ] || /usr/bin/python3 -c 'import cbor2, cryptography' 2>/dev/null; \
		then /usr/bin/python3 -B test/vectors/check.py; else echo "Without python3-cbor2 and python3-cryptography: the second implementation is left out."; fi
	SEALGATE_BIN=$(BIN) SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -timeout 15m -p 4 $$($(GO) list ./test/netns ./... | grep -v /test/bypass)
	@$(MAKE) --no-print-directory bypass
	@if [ -n "$(REQUIRE)" ] || (cd test/cluster && $(GO) list -deps . github.com/nats-io/nats-server/v2 >/dev/null 2>&1); \
		then $(MAKE) --no-print-directory cluster; else echo "nats-server cannot be fetched: the test with a cluster is left out."; fi
	@if [ -n "$(REQUIRE)" ] || (cd test/interop && $(GO) list -deps . github.com/nats-io/nats-server/v2 >/dev/null 2>&1); \
		then $(MAKE) --no-print-directory interop; else echo "Brokers and clients in Go cannot be fetched: the matrix is left out."; fi

# The clients mostly wait, for keep-alive timeouts and wills: all play beside each other.
.PHONY: interop
interop: setup build ## real clients and real brokers, direct and through Sealgate; prints the matrix of docs/INTEROP.md
	cd test/interop && SEALGATE_BIN=$(BIN) SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -count=1 -parallel 64 -timeout 10m

.PHONY: bypass
bypass: setup build ## every way past a gateway that was thought of, in every mode and state; prints the matrix of docs/STEERING.md
	cd test/bypass && SEALGATE_BIN=$(BIN) SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -count=1 -parallel 8 -timeout 10m

.PHONY: sim
sim: ## what the control plane costs fleets of up to 110,000 members, in virtual time; writes docs/scale.svg
	@mkdir -p $(BIN); $(BUILD) -o $(BIN)/sim ./test/sim; \
	if command -v qemu-mipsel-static >/dev/null 2>&1; then \
		GOOS=linux GOARCH=mipsle GOMIPS=softfloat $(BUILD) -o $(BIN)/sim-mipsle ./test/sim && \
		foreign="qemu-mipsel-static $(BIN)/sim-mipsle -ops"; \
	else echo "Without qemu-mipsel-static: single operations are measured on this machine only."; fi; \
	$(BIN)/sim -svg docs/scale.svg -foreign "$$foreign"

.PHONY: fleet
fleet: setup ## 200 members over one broker, 100 rotations: nobody behind for long, nothing lost
	SEALGATE_FLEET=full SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -count=1 -timeout 15m -v ./test/fleet

.PHONY: kills
kills: setup build ## 1,000 publishers, gatewayd killed 20 times in two minutes: nothing in clear, nothing lost; prints the recoveries
	SEALGATE_KILLS=full SEALGATE_BIN=$(BIN) SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -count=1 -timeout 10m -v -run '^TestKills$$' ./test/netns

.PHONY: chaos
chaos: build ## a fleet against a malicious broker and insiders, one scenario a rule; prints what was expected and seen
	cd test/chaos && SEALGATE_BIN=$(BIN) $(GO) test -count=1 -timeout 5m

.PHONY: cluster
cluster: build ## a broker of three nats-servers, one killed under load and in a rotation
	cd test/cluster && SEALGATE_BIN=$(BIN) $(GO) test -count=1 -timeout 10m -v .

.PHONY: check
check: fmt vet staticcheck vulncheck objects race build-all reproduce ## gofmt, go vet, staticcheck, govulncheck, the BPF objects, the tests under the race detector, sizes, the same bytes twice

.PHONY: fmt
fmt:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi

.PHONY: vet
vet:
	$(GO) vet ./...

.PHONY: staticcheck
staticcheck:
	$(GO) run $(STATICCHECK) ./...

# Without the vulnerability database the check cannot be made; that is said, and not held against the code.
.PHONY: vulncheck
vulncheck:
	@tmp=$$(mktemp -d); trap 'rm -rf $$tmp' EXIT; echo "govulncheck ./..."; \
	GOBIN=$$tmp $(GO) install $(GOVULNCHECK) || exit 1; \
	if timeout 300 $$tmp/govulncheck ./... > $$tmp/out 2>&1; then cat $$tmp/out; \
	elif grep -q 'fetching vulnerabilities' $$tmp/out; then \
		echo "The vulnerability database cannot be reached from here: known vulnerabilities were NOT looked for."; \
	else cat $$tmp/out; exit 1; fi

# The committed BPF objects are what their source compiles to.
.PHONY: objects
objects:
	@if ! command -v clang-14 >/dev/null 2>&1; then \
		if [ "$(CI)" = true ]; then echo "clang-14 is missing: the BPF objects cannot be compared with their source"; exit 1; fi; \
		echo "Without clang-14: the BPF objects are not compared with their source."; exit 0; fi; \
	tmp=$$(mktemp -d); trap 'rm -rf $$tmp' EXIT; OUT=$$tmp sh bpf/generate.sh >/dev/null || exit 1; \
	for f in $$tmp/*; do cmp $$f bpf/$$(basename $$f) || { echo "run make generate and commit bpf/"; exit 1; }; done; \
	echo "The BPF objects are what their source compiles to."

.PHONY: race
race:
	CGO_ENABLED=1 SEALGATE_REQUIRE=$(REQUIRE) $(GO) test -race -short -timeout 15m -p 4 ./cmd/... ./pkg/... ./bpf/...

.PHONY: bench
bench: setup build ## gatewayd beside HAProxy: processor time a message, memory, sizes
	@SEALGATE_BIN=$(BIN) $(GO) run ./test/bench
	$(GO) test -run '^$$' -bench . -benchtime 200ms ./pkg/...

.PHONY: bench-steer
bench-steer: setup build ## what each way to steer costs beside a plain proxy (as root); writes the tables of docs/PERFORMANCE.md
	@SEALGATE_BIN=$(BIN) $(GO) run ./test/bench -steer -doc docs/PERFORMANCE.md

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (60s), FUZZJOBS (2) side by side; a failing input stays under testdata
	$(GO) run ./test/fuzz -time $(FUZZTIME) -jobs $(FUZZJOBS)

.PHONY: vectors
vectors: ## write test/vectors anew, and check them with the implementation in Python
	$(GO) test -p 1 ./pkg/crypto ./pkg/control ./pkg/enrol -run '^Test(Whole)?Vectors' -update
	/usr/bin/python3 -B test/vectors/check.py

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
