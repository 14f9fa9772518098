package gateway

// idTable maps MQTT packet identifiers to what is known of them, up to maxIDs. Its zero value
// is empty. It is a hash table with linear probing that grows by doubling, charged to a
// budget: a device with twenty messages in flight pays for thirty-two slots.
type idTable[T any] struct {
	slots []idSlot[T] // a power of two; at most half of them are used
	n     int
	size  int // bytes charged for slots
}

type idSlot[T any] struct {
	id uint16 // 0: free, which is no packet identifier (MQTT-2.3.1-1)
	v  T
}

const minSlots = 8

func (t *idTable[T]) home(id uint16) int { return int(id) & (len(t.slots) - 1) }

// find gives the slot of id, or the free one where it would go.
func (t *idTable[T]) find(id uint16) int {
	i := t.home(id)
	for t.slots[i].id != 0 && t.slots[i].id != id {
		i = (i + 1) & (len(t.slots) - 1)
	}
	return i
}

// get returns a pointer that is valid until the next put or remove, nil if id is unknown.
func (t *idTable[T]) get(id uint16) *T {
	if t.n == 0 || id == 0 {
		return nil
	}
	if s := &t.slots[t.find(id)]; s.id == id {
		return &s.v
	}
	return nil
}

// put sets id's value. It reports false, and forgets id, when there is no room.
func (t *idTable[T]) put(id uint16, v T, b *budget, slotSize int) bool {
	if id == 0 {
		return false
	}
	if p := t.get(id); p != nil {
		*p = v
		return true
	}
	if t.n >= maxIDs || 2*(t.n+1) > len(t.slots) && !t.grow(b, slotSize) {
		return false
	}
	t.slots[t.find(id)] = idSlot[T]{id, v}
	t.n++
	return true
}

func (t *idTable[T]) grow(b *budget, slotSize int) bool {
	n := max(minSlots, 2*len(t.slots))
	if !b.take(n * slotSize) {
		return false
	}
	old, charged := t.slots, t.size
	t.slots, t.size = make([]idSlot[T], n), n*slotSize
	for _, s := range old {
		if s.id != 0 {
			t.slots[t.find(s.id)] = s
		}
	}
	b.give(charged)
	return true
}

// remove forgets id and reports whether it was known.
func (t *idTable[T]) remove(id uint16) bool {
	if t.n == 0 || id == 0 {
		return false
	}
	i := t.find(id)
	if t.slots[i].id != id {
		return false
	}
	t.n--
	// Close the gap: whatever a probe would no longer reach moves up.
	for j := i; ; {
		j = (j + 1) & (len(t.slots) - 1)
		if t.slots[j].id == 0 {
			break
		}
		if h := t.home(t.slots[j].id); (j-h)&(len(t.slots)-1) >= (j-i)&(len(t.slots)-1) {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = idSlot[T]{}
	return true
}

// keep removes all that want refuses.
func (t *idTable[T]) keep(want func(*T) bool) {
	for i := 0; i < len(t.slots); {
		if s := &t.slots[i]; s.id != 0 && !want(&s.v) {
			t.remove(s.id) // may move another one here: look again
			continue
		}
		i++
	}
}

// clear forgets everything and gives the storage back.
func (t *idTable[T]) clear(b *budget) {
	b.give(t.size)
	*t = idTable[T]{}
}
