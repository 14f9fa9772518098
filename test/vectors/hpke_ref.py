"""HPKE with KEM MLKEM768-X25519 (X-Wing), HKDF-SHA256 and ChaCha20Poly1305, base mode.

Written from RFC 9180, draft-connolly-cfrg-xwing-kem and FIPS 203 (mlkem768.py), the suite that
section 11 of docs/spec/envelope.md names.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import mlkem768
from sealgate_ref import Refused

KEM_ID, KDF_ID, AEAD_ID = 0x647A, 0x0001, 0x0003
SUITE = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (KEM_ID, KDF_ID, AEAD_ID))
XWING_LABEL = b"\\.//^\\"
ENC_SIZE, PUBLIC_SIZE = mlkem768.CT_SIZE + 32, mlkem768.EK_SIZE + 32


def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def x25519(private, public):
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a shared secret of zeros
        raise Refused("open", "X25519 point of small order") from None


def combine(shared_m, shared_x, ct_x, pk_x):
    return hashlib.sha3_256(shared_m + shared_x + ct_x + pk_x + XWING_LABEL).digest()


class Key:
    """A key pair of a 32-byte seed."""

    def __init__(self, seed):
        expanded = hashlib.shake_256(seed).digest(96)
        ek, self.pq = mlkem768.keygen(expanded[:64])
        self.x = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.public = ek + raw(self.x.public_key())

    def decapsulate(self, enc):
        ct_m, ct_x = enc[: mlkem768.CT_SIZE], enc[mlkem768.CT_SIZE :]
        return combine(mlkem768.decapsulate(self.pq, ct_m), x25519(self.x, ct_x), ct_x, self.public[mlkem768.EK_SIZE :])


def encapsulate(public, randomness):
    """randomness is 32 bytes for ML-KEM, then the ephemeral X25519 private key."""
    pk_m, pk_x = public[: mlkem768.EK_SIZE], public[mlkem768.EK_SIZE :]
    try:
        shared_m, ct_m = mlkem768.encapsulate(pk_m, randomness[:32])
    except ValueError as e:
        raise Refused("public", str(e)) from None
    ephemeral = X25519PrivateKey.from_private_bytes(randomness[32:])
    ct_x = raw(ephemeral.public_key())
    return combine(shared_m, x25519(ephemeral, pk_x), ct_x, pk_x), ct_m + ct_x


# RFC 9180 4 and 5.1, base mode. One message to a context, so the nonce is the base nonce.


def hmac_sha256(key, data):
    return hmac.digest(key, data, "sha256")


def labeled_extract(salt, label, ikm):
    return hmac_sha256(salt, b"HPKE-v1" + SUITE + label + ikm)


def labeled_expand(prk, label, info, length):
    info = length.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + info
    out = block = b""
    for i in range(1, 256):
        if len(out) >= length:
            return out[:length]
        block = hmac_sha256(prk, block + info + bytes([i]))
        out += block


def key_schedule(shared, info):
    """The AEAD's key and base nonce."""
    context = b"\0" + labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
    secret = labeled_extract(shared, b"secret", b"")
    return labeled_expand(secret, b"key", context, 32), labeled_expand(secret, b"base_nonce", context, 12)


def seal(public, info, plaintext, randomness, aad=b""):
    if len(public) != PUBLIC_SIZE:
        raise Refused("public", "length of the public key")
    shared, enc = encapsulate(public, randomness)
    key, nonce = key_schedule(shared, info)
    return enc + ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)


def open_sealed(key, info, sealed, aad=b""):
    """key is a Key."""
    if len(sealed) < ENC_SIZE + 16:
        raise Refused("open", "shorter than any")
    aead_key, nonce = key_schedule(key.decapsulate(sealed[:ENC_SIZE]), info)
    try:
        return ChaCha20Poly1305(aead_key).decrypt(nonce, sealed[ENC_SIZE:], aad)
    except InvalidTag:
        raise Refused("open", "does not authenticate") from None
