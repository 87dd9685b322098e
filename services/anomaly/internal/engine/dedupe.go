package engine

// dedupe remembers the last event ids in two generations: at least size, at most
// twice as many, however they are spread over time.
type dedupe struct {
	size     int
	now, old map[uint64]struct{}
}

func newDedupe(size int) dedupe {
	return dedupe{size: size, now: map[uint64]struct{}{}, old: map[uint64]struct{}{}}
}

// add notes h and reports whether it was already known.
func (d *dedupe) add(h uint64) bool {
	if _, ok := d.now[h]; ok {
		return true
	}
	_, known := d.old[h]
	if len(d.now) >= d.size {
		d.now, d.old = map[uint64]struct{}{}, d.now
	}
	d.now[h] = struct{}{}
	return known
}

func (d *dedupe) len() int { return len(d.now) + len(d.old) }

// key is FNV-1a, 64 bits, over what makes an event unique (CloudEvents 1.0: source
// and id) within its tenant.
func key(m Meta) uint64 {
	h := uint64(14695981039346656037)
	for _, p := range [...]string{m.Tenant, m.Source, m.ID} {
		for i := 0; i < len(p); i++ {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
		h = (h ^ 0xFF) * 1099511628211
	}
	return h
}

// outputs keeps what the last causes led to, so that a cause that is delivered again
// (because the publish of its events failed, or a process took over) leads to the
// same events again. Causes that led to nothing need no entry.
type outputs struct {
	size  int
	by    map[uint64][]Output
	order []uint64
	next  int
}

func newOutputs(size int) outputs { return outputs{size: size, by: map[uint64][]Output{}} }

func (o *outputs) put(h uint64, out []Output) {
	if len(out) == 0 {
		return
	}
	if len(o.order) < o.size {
		o.order = append(o.order, h)
	} else {
		delete(o.by, o.order[o.next])
		o.order[o.next] = h
		o.next = (o.next + 1) % o.size
	}
	o.by[h] = out
}

// once applies an event the first time it is seen; later it answers the same.
func (e *Engine) once(m Meta, apply func() []Output) []Output {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := key(m)
	if e.seen.add(h) {
		return e.outputs.by[h]
	}
	out := apply()
	e.outputs.put(h, out)
	return out
}
