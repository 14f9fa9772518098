package chaos

import (
	"crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/enrol"
	"sealgate/pkg/member"
	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// enrolScenarios are what a broker, or somebody on it, can do to routers that join by a ticket: real programs on both sides.
func enrolScenarios() []scenario {
	return []scenario{
		{name: "enrolment: offers and answers forged, swapped", expect: "the joiner takes the CA's answer to its own request, no other", run: forgedAnswers},
		{name: "enrolment: requests and a ticket used again", expect: "one member, one certificate; the second machine refused", run: ticketAgain},
		{name: "flood: requests on the enrolment topic", expect: "few answers; an honest joiner served meanwhile", run: requests},
	}
}

// office is the operator's side: `sealctl fleet serve`, as the broker's user ops.
type office struct {
	*scene
	plant *lab.Plant
	serve *lab.Proc
	asked string // the topic of requests
}

func (s *scene) office() *office {
	s.Helper()
	x := &office{scene: s, plant: s.real(sitePolicy, map[string]string{"mallory": "operator"})}
	ticket, err := enrol.ParseTicket(x.ticket("first"))
	if err != nil {
		s.Fatal(err)
	}
	x.asked = enrol.RequestTopic(prefix, ticket.Anchor)
	x.serve = lab.Start(s.T, x.sealctl("serve", "-b", x.plant.URL(), "--cafile", x.plant.CA.File, "-u", "ops"))
	if err := x.serve.AwaitLine(lab.Within(s.T, patience), "serving fleet plant"); err != nil {
		s.Fatal(err)
	}
	return x
}

// sealctl is `sealctl fleet WHAT DIR ...`.
func (x *office) sealctl(what string, args ...string) lab.Cmd {
	return lab.Cmd{Path: x.plant.Programs.Sealctl, Args: slices.Concat([]string{"fleet", what, x.plant.Fleet.Dir}, args)}
}

func (x *office) ticket(name string) string {
	x.Helper()
	return strings.TrimSpace(lab.MustRun(x.T, lab.Within(x.T, patience), x.sealctl("ticket", "--name", name, "--ttl", "1h")))
}

// join starts a machine that joins by a ticket, as the broker's user name.
func (x *office) join(name, ticket string) *lab.Proc {
	x.Helper()
	dir := x.TempDir()
	conf := lab.Conf{}
	conf.Set("", "fleet", "plant").Set("", "identity", filepath.Join(dir, "identity"))
	conf.Set("control", "broker", x.plant.URL()).Set("control", "ca", x.plant.CA.File).Set("control", "username", name)
	file := filepath.Join(dir, "sealgate.toml")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		x.Fatal(err)
	}
	return lab.Start(x.T, lab.Cmd{Path: x.plant.Programs.Controld, Args: []string{"-join", ticket, "-config", file, "-wait", "3m"}})
}

// ended waits for a joiner's end and fails unless its exit code is this and it has said so.
func (x *office) ended(p *lab.Proc, code int, said string) {
	x.Helper()
	got, err := p.Wait(lab.Within(x.T, 2*patience))
	if text := strings.Join(p.Stderr(), "\n"); err != nil || got != code || !strings.Contains(text, said) {
		x.Fatalf("exit code %d (%v), want %d and %q:\n%s", got, err, code, said, text)
	}
}

// members counts the lines of the fleet's list that name a member.
func (x *office) members(name string) (n int) {
	x.Helper()
	b, err := os.ReadFile(filepath.Join(x.plant.Fleet.Dir, "members.txt"))
	if err != nil {
		x.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, name+" ") {
			n++
		}
	}
	return n
}

// answers are what the office has published since mark, to inboxes.
func (x *office) answers(mark int) []embedded.Letter {
	return slices.DeleteFunc(x.broker.Sent(mark), func(l embedded.Letter) bool { return l.From != "ops" || !isInbox(l) })
}

// verdict is what an answer says.
func (x *office) verdict(msg []byte) enrol.Verdict {
	x.Helper()
	payload, _, err := x.trust.VerifyPolicySigner(msg, "enrol-answer", time.Now())
	if err != nil {
		x.Fatal(err)
	}
	a, err := enrol.ParseAnswer(payload)
	if err != nil {
		x.Fatal(err)
	}
	return a.Verdict
}

func forgedAnswers(s *scene) {
	x := s.office()
	x.ended(x.join("node1", x.ticket("node1")), 0, "this machine is gateway node1 of")
	others := x.answers(0)[0].Payload
	id, _, _, err := member.LoadIdentity(x.plant.Fleet.Identity("mallory"))
	if err != nil {
		s.Fatal(err)
	}
	offer := s.broker.Retained(x.asked + "/offer")
	bait, err := enrol.ParseOffer(offer)
	if err != nil {
		s.Fatal(err)
	}
	own, err := crypto.NewInboxKey()
	if err != nil {
		s.Fatal(err)
	}
	bait.Key = own.Public() // with the fleet's CA: requests to a key of the broker's
	mark := s.broker.Mark()
	s.broker.Meddle(func(l embedded.Letter) []embedded.Letter {
		if l.To != "node2" {
			return []embedded.Letter{l}
		}
		instead := func(payload []byte) embedded.Letter {
			f := l
			f.Payload = payload
			return f
		}
		if l.Topic == x.asked+"/offer" {
			return []embedded.Letter{instead(bait.Marshal()), instead(offer[:len(offer)-1]), l}
		}
		bent := slices.Clone(l.Payload)
		bent[len(bent)/2] ^= 1
		request := s.sentOn(mark, x.asked)[0].Payload
		insider, err := id.Sign((&enrol.Answer{Request: sha256.Sum256(request), Verdict: enrol.Used, Time: time.Now()}).Marshal(), "enrol-answer")
		if err != nil {
			s.Error(err)
		}
		return []embedded.Letter{instead(others), instead(bent), instead(insider), l}
	})
	node2 := x.join("node2", x.ticket("node2"))
	x.ended(node2, 0, "this machine is gateway node2 of")
	text := strings.Join(node2.Stderr(), "\n")
	offers, answers := strings.Count(text, "an operator's offer was ignored"), strings.Count(text, "an answer was ignored, since it cannot be trusted")
	if offers < 2 || answers < 3 || x.members("node2") != 1 {
		s.Errorf("%d offers and %d answers ignored; the joiner said\n%s", offers, answers, text)
	}
	s.saw("%d offers and %d answers ignored, each said; then joined", offers, answers)
}

func ticketAgain(s *scene) {
	x := s.office()
	ticket := x.ticket("node1")
	mark := s.broker.Mark()
	x.ended(x.join("node1", ticket), 0, "this machine is gateway node1 of")
	request := s.sentOn(mark, x.asked)[0]
	first := x.answers(mark)[0]
	x.ended(x.join("thief", ticket), 1, "used already")

	if v := x.again(request, first.Topic); v != enrol.Granted {
		s.Errorf("the request played again: verdict %v", v)
	}
	parsed, err := enrol.ParseRequest(request.Payload)
	if err != nil {
		s.Fatal(err)
	}
	parsed.Inbox = random() // that the answer comes to somebody else
	request.Payload = parsed.Marshal()
	if v := x.again(request, enrol.InboxTopic(prefix, parsed.Inbox)); v != enrol.Unknown {
		s.Errorf("a request with another inbox: verdict %v", v)
	}
	if n := x.members("node1"); n != 1 {
		s.Errorf("%d members node1", n)
	}
	s.saw("second machine: used already; played again: answered to the same inbox; with another inbox: unknown; 1 member")
}

// again gives the office a request, and waits for what it answers to an inbox.
func (x *office) again(request embedded.Letter, inbox string) enrol.Verdict {
	x.Helper()
	request.To = "ops"
	mark := x.broker.Mark()
	x.broker.Deliver(request)
	x.await("an answer on "+inbox, func() bool { return len(x.sentOn(mark, inbox)) > 0 })
	return x.verdict(x.sentOn(mark, inbox)[0].Payload)
}

func requests(s *scene) {
	x := s.office()
	ticket := x.ticket("node1")
	mark, start := s.broker.Mark(), time.Now()
	for range 2000 {
		r := &enrol.Request{Inbox: random(), Sealed: make([]byte, 2000)}
		_, _ = rand.Read(r.Ticket[:])
		s.broker.Deliver(embedded.Letter{To: "ops", Topic: x.asked, Payload: r.Marshal(), QoS: 1})
		s.broker.Deliver(embedded.Letter{To: "ops", Topic: x.asked, Payload: r.Sealed[:500], QoS: 1})
	}
	x.ended(x.join("node1", ticket), 0, "this machine is gateway node1 of")
	refused, limit := 0, enrol.RefusalBurst+int(time.Since(start).Seconds()*enrol.RefusalRate)+1
	for _, a := range x.answers(mark) {
		if x.verdict(a.Payload) == enrol.Unknown {
			refused++
		}
	}
	if refused == 0 || refused > limit {
		s.Errorf("%d refusals, 1 to %d expected", refused, limit)
	}
	said := len(x.serve.Stderr())
	if said > 20 {
		s.Errorf("the operator read %d lines", said)
	}
	s.saw("4000 requests, %d answers, %d lines for the operator; node1 joined", refused, said)
}
