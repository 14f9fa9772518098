// Package firmware boots the appliance image of firmware-image in an emulated machine, between a sensor network and an uplink of its own,
// and does with it what a person would. `make test-firmware` runs it; it needs the image and QEMU, and skips without SEALGATE_IMAGE.
package firmware
