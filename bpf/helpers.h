/* The helpers that the programs here call, declared by their UAPI number: no libbpf, no BTF, no kernel headers other
 * than the UAPI ones. None of them is restricted to GPL programs. */
#ifndef SEALGATE_HELPERS_H
#define SEALGATE_HELPERS_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* Keeps the compiler from merging the code before and after. */
#define barrier() __asm__ volatile("" ::: "memory")

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(x) ((__be16)__builtin_bswap16(x))
#define htonl(x) ((__be32)__builtin_bswap32(x))
#else
#define htons(x) ((__be16)(x))
#define htonl(x) ((__be32)(x))
#endif
#define ntohs(x) ((__u16)htons(x))

/* A map without BTF: the loader reads these five words. */
struct map_def {
	__u32 type, key_size, value_size, max_entries, flags;
};

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_push)(void *map, const void *value, __u64 flags) = (void *)BPF_FUNC_map_push_elem;
static __u64 (*jiffies)(void) = (void *)BPF_FUNC_jiffies64; /* bpf_ktime_get_ns was for GPL programs before 5.8 */
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*skb_load)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*skb_store)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len, __u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)BPF_FUNC_clone_redirect;
static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*skb_load_relative)(const void *skb, __u32 offset, void *to, __u32 len, __u32 start) =
	(void *)BPF_FUNC_skb_load_bytes_relative;
static long (*skb_pull)(struct __sk_buff *skb, __u32 len) = (void *)BPF_FUNC_skb_pull_data;
static struct bpf_sock *(*skc_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
					  __u64 flags) = (void *)BPF_FUNC_skc_lookup_tcp;
static struct bpf_sock *(*sk_fullsock)(struct bpf_sock *sk) = (void *)BPF_FUNC_sk_fullsock;
static struct bpf_sock *(*get_listener_sock)(struct bpf_sock *sk) = (void *)BPF_FUNC_get_listener_sock;
static long (*sk_assign)(void *ctx, void *sk, __u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*sk_release)(void *sk) = (void *)BPF_FUNC_sk_release;

#endif
