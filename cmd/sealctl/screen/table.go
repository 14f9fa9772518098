package screen

import "strings"

// table is columns of plain text.
type table struct {
	columns []column
	rows    [][]string
}

// column is a column's head. Where the screen is too narrow, the columns of the highest rank are left out first.
type column struct {
	head  string
	right bool
	rank  int // 0: never left out
}

const between = 2 // columns of space

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = Plain(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// lines lays the table out, head first, in so many columns; 0: in as many as it takes. A table without rows has no lines.
func (t *table) lines(width int) []string {
	if len(t.rows) == 0 {
		return nil
	}
	wide := make([]int, len(t.columns))
	for i, c := range t.columns {
		wide[i] = Width(c.head)
		for _, row := range t.rows {
			wide[i] = max(wide[i], Width(row[i]))
		}
	}
	shown := t.fit(wide, width)
	head := make([]string, len(t.columns))
	for i, c := range t.columns {
		head[i] = c.head
	}
	out := make([]string, 0, len(t.rows)+1)
	for _, row := range append([][]string{head}, t.rows...) {
		var parts []string
		for _, i := range shown {
			parts = append(parts, pad(row[i], wide[i], t.columns[i].right))
		}
		out = append(out, Cut(strings.TrimRight(strings.Join(parts, strings.Repeat(" ", between)), " "), width))
	}
	return out
}

// fit chooses the columns that there is room for. The last one may be cut, so only its head counts.
func (t *table) fit(wide []int, width int) (shown []int) {
	for i := range t.columns {
		shown = append(shown, i)
	}
	for width > 0 {
		sum, worst := -between, 0
		for k, i := range shown {
			w := wide[i]
			if k == len(shown)-1 && !t.columns[i].right {
				w = Width(t.columns[i].head)
			}
			sum += w + between
			if t.columns[i].rank > t.columns[shown[worst]].rank {
				worst = k
			}
		}
		if sum <= width || t.columns[shown[worst]].rank == 0 {
			break
		}
		shown = append(shown[:worst], shown[worst+1:]...)
	}
	return shown
}
