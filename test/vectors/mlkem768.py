"""ML-KEM-768, written from FIPS 203 alone; numbers in comments are those of its algorithms.

To check an implementation against, not to protect anything: nothing in it runs in constant time.
"""

import hashlib

N, Q, K = 256, 3329, 3
DU, DV = 10, 4  # ETA1 = ETA2 = 2
EK_SIZE, CT_SIZE, SEED_SIZE = 384 * K + 32, 32 * (DU * K + DV), 64


def bit_reversed(i):
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, bit_reversed(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * bit_reversed(i) + 1, Q) for i in range(128)]


def g(data):
    h = hashlib.sha3_512(data).digest()
    return h[:32], h[32:]


def h(data):
    return hashlib.sha3_256(data).digest()


def j(data):
    return hashlib.shake_256(data).digest(32)


def prf(seed, counter):
    return hashlib.shake_256(seed + bytes([counter])).digest(64 * 2)


def pack(values, d):  # 5
    n = 0
    for i, v in enumerate(values):
        n |= v << d * i
    return n.to_bytes(32 * d, "little")


def unpack(data, d):  # 6, without the reduction modulo q
    n, mask = int.from_bytes(data, "little"), (1 << d) - 1
    return [n >> d * i & mask for i in range(N)]


def compress(f, d):  # 4.7: rounded, halves upwards
    return [((x << d + 1) + Q) // (2 * Q) % (1 << d) for x in f]


def decompress(f, d):  # 4.8
    return [(y * Q + (1 << d - 1)) >> d for y in f]


def sample_ntt(seed):  # 7
    length, out = 672, []
    while True:
        stream = hashlib.shake_128(seed).digest(length)
        out = []
        for i in range(0, length, 3):
            a, b, c = stream[i : i + 3]
            out += [d for d in (a + 256 * (b % 16), b // 16 + 16 * c) if d < Q]
        if len(out) >= N:
            return out[:N]
        length += 168


def sample_cbd(data):  # 8, eta = 2
    n = int.from_bytes(data, "little")
    bit = lambda i: n >> i & 1
    return [(bit(4 * i) + bit(4 * i + 1) - bit(4 * i + 2) - bit(4 * i + 3)) % Q for i in range(N)]


def ntt(f):  # 9
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i + 1
            for k in range(start, start + length):
                t = zeta * f[k + length] % Q
                f[k], f[k + length] = (f[k] + t) % Q, (f[k] - t) % Q
        length //= 2
    return f


def inverse_ntt(f):  # 10
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i - 1
            for k in range(start, start + length):
                t = f[k]
                f[k], f[k + length] = (t + f[k + length]) % Q, zeta * (f[k + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def multiply(f, g_):  # 11 and 12
    out = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g_[2 * i], g_[2 * i + 1]
        out += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return out


def add(*polynomials):
    return [sum(c) % Q for c in zip(*polynomials)]


def subtract(f, g_):
    return [(a - b) % Q for a, b in zip(f, g_)]


def dot(u, v):
    return add(*(multiply(a, b) for a, b in zip(u, v)))


def matrix(rho):
    return [[sample_ntt(rho + bytes([column, row])) for column in range(K)] for row in range(K)]


def parts(data, count):
    size = len(data) // count
    return [data[i * size : (i + 1) * size] for i in range(count)]


def keygen_pke(d):  # 13
    rho, sigma = g(d + bytes([K]))
    a = matrix(rho)
    s = [ntt(sample_cbd(prf(sigma, i))) for i in range(K)]
    e = [ntt(sample_cbd(prf(sigma, K + i))) for i in range(K)]
    t = [add(dot(a[i], s), e[i]) for i in range(K)]
    return b"".join(pack(x, 12) for x in t) + rho, b"".join(pack(x, 12) for x in s)


def encrypt_pke(ek, m, r):  # 14
    t, rho = [unpack(x, 12) for x in parts(ek[:-32], K)], ek[-32:]
    a = matrix(rho)
    y = [ntt(sample_cbd(prf(r, i))) for i in range(K)]
    e1 = [sample_cbd(prf(r, K + i)) for i in range(K)]
    e2 = sample_cbd(prf(r, 2 * K))
    u = [add(inverse_ntt(dot([a[row][i] for row in range(K)], y)), e1[i]) for i in range(K)]
    v = add(inverse_ntt(dot(t, y)), e2, decompress(unpack(m, 1), 1))
    return b"".join(pack(compress(x, DU), DU) for x in u) + pack(compress(v, DV), DV)


def decrypt_pke(dk, c):  # 15
    u = [decompress(unpack(x, DU), DU) for x in parts(c[: 32 * DU * K], K)]
    v = decompress(unpack(c[32 * DU * K :], DV), DV)
    s = [unpack(x, 12) for x in parts(dk, K)]
    w = subtract(v, inverse_ntt(dot(s, [ntt(x) for x in u])))
    return pack(compress(w, 1), 1)


def keygen(seed):
    """The encapsulation key, and the decapsulation key as it is used here, of a seed d || z (16, 19)."""
    if len(seed) != SEED_SIZE:
        raise ValueError("a seed has 64 bytes")
    ek, dk = keygen_pke(seed[:32])
    return ek, (dk, ek, seed[32:])


def encapsulate(ek, m):
    """The shared secret and the ciphertext for randomness m (17), after the checks of 20."""
    if len(ek) != EK_SIZE or len(m) != 32:
        raise ValueError("length of the encapsulation key or of the randomness")
    if any(x >= Q for part in parts(ek[:-32], K) for x in unpack(part, 12)):
        raise ValueError("a coefficient of the encapsulation key is not reduced")
    shared, r = g(m + h(ek))
    return shared, encrypt_pke(ek, m, r)


def decapsulate(key, c):
    """The shared secret (18, 21). A ciphertext that was not made for the key gives another one."""
    dk, ek, z = key
    if len(c) != CT_SIZE:
        raise ValueError("length of the ciphertext")
    m = decrypt_pke(dk, c)
    shared, r = g(m + h(ek))
    return shared if encrypt_pke(ek, m, r) == c else j(z + c)
