package enrol

import "time"

// Constants of docs/spec/enrol.md section 8, in its order.
const (
	SecretSize   = 32                  // bytes of a ticket's secret
	MaxTicket    = 512                 // characters of a ticket
	MinTTL       = time.Minute         // shortest life of a ticket
	MaxTTL       = 30 * 24 * time.Hour // longest life of a ticket
	Remember     = 30 * 24 * time.Hour // a used or expired ticket is remembered this long after its expiry
	MaxTickets   = 4096                // tickets in a book
	MaxOffer     = 16 << 10            // bytes of an offer
	MaxRequest   = 4 << 10             // bytes of a request
	MaxAnswer    = 640 << 10           // bytes of a signed answer
	AskMin       = 3 * time.Second     // a joiner repeats an unanswered request first after this
	AskMax       = 30 * time.Second    // and later at most this far apart
	RefusalRate  = 2                   // answers a second to requests that no ticket authenticates
	RefusalBurst = 8                   // the same, in a burst
	TicketEvery  = 2 * time.Second     // between two answers to one ticket, in the long run
	TicketBurst  = 4                   // answers to one ticket in a burst
)
