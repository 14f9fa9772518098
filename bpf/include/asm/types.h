/* The kernel's UAPI headers ask for the architecture's headers. BPF is an architecture of its own, so these stand in
 * for them: without them the build machine's byte order and word size would leak into the object. */
#include <asm-generic/int-ll64.h>
