package crypto

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sealgate/pkg/dcbor"
	"sealgate/test/spec"
)

const specFile = "../../docs/spec/envelope.md"

// The specification's worked example is what this package computes.
func TestSpecExamples(t *testing.T) {
	found := make(map[string][]byte)
	for _, m := range regexp.MustCompile("(?s)```hex ([a-z0-9-]+)\n(.*?)```").FindAllStringSubmatch(spec.Text(t, specFile), -1) {
		b, err := hex.DecodeString(strings.Join(strings.Fields(m[2]), ""))
		if err != nil {
			t.Errorf("example %s: %v", m[1], err)
		}
		found[m[1]] = b
	}
	want := specExamples(t)
	for name, b := range want {
		if !bytes.Equal(found[name], b) {
			t.Errorf("example %s is %x in the document, computed %x", name, found[name], b)
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d examples in the document, %d are computed", len(found), len(want))
	}
}

func specExamples(t *testing.T) map[string][]byte {
	t.Helper()
	v := baseVector("", "")
	v.seal(t)
	s := v.sealer(t)
	secret := must(PayloadSecretFrom(v.Secret))(t)
	commitment := Commitment(secret, v.Group)
	info := dcbor.AppendText(dcbor.AppendText(dcbor.AppendText(dcbor.AppendArray(nil, 4), labelStream), v.Group), v.Topic)
	kek := must(KEKFrom(seq32(0x40)))(t)
	w := must(kek.Wrap(bytes.NewReader(seq32(0x80)), secret, WrapContext{Fleet: "plant", Group: "default", Generation: 3, Number: 17, Keeper: "gw1"}))(t)
	ext := dcbor.AppendText(dcbor.AppendText(dcbor.AppendUint(dcbor.AppendArray(nil, 3), 1), "plant"), "hello")
	if tbs := sigStructure(nil, "plant", "hello", nil); !bytes.Contains(tbs, ext) {
		t.Errorf("external_aad %x is not signed", ext)
	}
	return map[string][]byte{
		"start": []byte(envelopeStart), "commitment": commitment[:], "stream-id": v.Stream,
		"stream-info": dcbor.AppendBytes(info, v.Stream), "stream-key": append(bytes.Clone(v.Key), v.BaseIV...),
		"nonce": s.at(5), "aad": v.AAD, "inner": append([]byte{0}, v.Payload...), "envelope": v.Envelope,
		"ratchet": kek.Ratchet("default").Bytes(), "wrap": w.Ciphertext[:],
		"sign1-protected": encodeProtected(algEdDSA, [32]byte(seq32(0))), "sign1-external-aad": ext,
	}
}

// The table of sizes is what Len says.
func TestSpecSizes(t *testing.T) {
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$`).FindAllStringSubmatch(spec.Text(t, specFile), -1)
	if len(rows) != 7 {
		t.Fatalf("%d rows of sizes found", len(rows))
	}
	s, _ := benchStreams(t)
	for _, row := range rows {
		payload, _ := strconv.Atoi(row[1])
		for i, seq := range []uint64{0, 256, MaxSequence} {
			want, _ := strconv.Atoi(row[2+i])
			s.next = seq
			out, _, err := s.Seal(nil, nil, make([]byte, payload))
			if err != nil || len(out)-payload != want || len(out)-InnerLen(0, payload) > MaxOverhead {
				t.Errorf("%d bytes at number %d grow by %d, the document says %d (%v)", payload, seq, len(out)-payload, want, err)
			}
		}
	}
}

// Every label and limit of the code stands in the document.
func TestSpecNamesWhatTheCodeUses(t *testing.T) {
	text := spec.Text(t, specFile)
	for _, want := range []string{
		labelCommitment, labelStream, labelStreamID, labelRatchet, labelWrap, labelTopicKey,
		must(TopicKeyFrom(seq32(0)))(t).Hide("plant//temperature"), fmt.Sprintf("of more than %d levels", (MaxTopic+1)/(TokenSize+1)),
		fmt.Sprintf("tells %d", WindowSize), fmt.Sprintf("public key %d, encapsulated key %d", InboxPublicSize, HPKEOverhead-tagSize),
		fmt.Sprintf("%d bytes. Each wrap key", len(Wrap{}.Ciphertext)), fmt.Sprintf("at most %d certificates", MaxChain),
		fmt.Sprintf("1 to %d bytes; in full", MaxTopic), fmt.Sprintf("UTF-8, 1 to %d bytes |", MaxGroup), "by 42 to " + strconv.Itoa(MaxOverhead),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, specFile)
		}
	}
	for _, power := range []struct {
		text  string
		value uint64
	}{{"| messages of a stream | 2^40 |", MaxSequence + 1}, {"| inner plaintext | 2^28-1 bytes |", MaxInner}, {"| failed openings of a stream | 2^36 |", MaxForgeries}} {
		var e uint
		if _, err := fmt.Sscanf(power.text[strings.Index(power.text, "2^"):], "2^%d", &e); err != nil {
			t.Fatal(err)
		}
		value := uint64(1) << e
		if strings.Contains(power.text, "-1") {
			value--
		}
		if !strings.Contains(text, power.text) || value != power.value {
			t.Errorf("%q is not in %s, or the code has %d", power.text, specFile, power.value)
		}
	}
}

// Every section that the code cites exists.
func TestSpecSectionsExist(t *testing.T) {
	text := spec.Text(t, specFile)
	files := must(os.ReadDir("."))(t)
	cited := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		source := spec.Text(t, f.Name())
		for _, m := range regexp.MustCompile(`\bspec (\d+(?:\.\d+)?)`).FindAllStringSubmatch(source, -1) {
			cited++
			if !spec.HasSection(text, m[1]) {
				t.Errorf("%s cites section %s, which %s does not have", f.Name(), m[1], specFile)
			}
		}
	}
	if cited < 20 {
		t.Errorf("only %d citations found", cited)
	}
}
