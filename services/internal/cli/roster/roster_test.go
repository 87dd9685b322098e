package roster

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
)

const head = "tenant,identity,kind,owner,feature,purpose,kill_switch"

// all reads a file to its end.
func all(in string) (rows []Row, err error) {
	for r, e := range Read(strings.NewReader(in), "acme") {
		if e != nil {
			return rows, e
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func TestEveryColumn(t *testing.T) {
	want := Declaration{Tenant: "globex", Registration: events.Registration{Identity: "note", Kind: events.KindOAuthApp, Owner: "ana", Feature: "notes",
		Purpose: "takes \"notes\",\nall day", KillSwitch: "feature",
		Attestation: []events.Attestation{{Issuer: "https://idp.example", Subject: "a=b"}, {Issuer: "https://idp2.example", Subject: "c"}},
		Scopes:      []string{"a", "b"}, Audiences: []string{"https://x.example"}, Aliases: []string{"arn:1", "arn:2"},
		Tools: map[string][]string{"t": {"x", "y"}}, Backend: "role", Vendor: "Notetaker", GrantedScopes: []string{"files.read"}, ConsentedBy: "bo",
		DataReached: []string{"customer mail", "files"}, VendorManaged: true, Unknowns: []string{"where its secret is"}}}
	csv := "tenant,Identity ,kind,owner,feature,purpose,kill_switch,attestation,scopes,audiences,aliases,tools,backend,vendor,granted_scopes,consented_by,data_reached,vendor_managed,unknowns\r\n" +
		`globex,note,oauth_app,ana,notes,"takes ""notes"",` + "\r\n" + `all day",feature,https://idp.example=a=b https://idp2.example=c,a;b;a,https://x.example,"arn:1 ; arn:2","{""t"":[""x"",""y""]}",role,Notetaker,files.read,bo,customer mail; files,Yes,where its secret is` + "\r\n"
	lines := `{"tenant":"globex","identity":"note","kind":"oauth_app","owner":"ana","feature":"notes","purpose":"takes \"notes\",\nall day","kill_switch":"feature",` +
		`"attestation":[{"issuer":"https://idp.example","subject":"a=b"},{"issuer":"https://idp2.example","subject":"c"}],"scopes":["a","b"],"audiences":["https://x.example"],` +
		`"aliases":["arn:1","arn:2"],"tools":{"t":["x","y"]},"backend":"role","vendor":"Notetaker","granted_scopes":["files.read"],"consented_by":"bo",` +
		`"data_reached":["customer mail","files"],"vendor_managed":true,"unknowns":["where its secret is"]}`
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write([]byte(csv))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	for name, in := range map[string]string{"csv": csv, "csv with a byte order mark": "\ufeff" + csv, "gzip": packed.String(), "no last line feed": strings.TrimSuffix(csv, "\r\n"),
		"json lines": lines, "json lines with a byte order mark, blank lines and CRLF": "\ufeff\r\n\r\n" + lines + "\r\n\r\n"} {
		rows, err := all(in)
		require.NoError(t, err, name)
		require.Len(t, rows, 1, name)
		require.NoError(t, rows[0].Err, name)
		require.Equal(t, want, rows[0].Entry, name)
		require.Equal(t, 1, rows[0].Number, name)
	}
}

// TestBadRows: a row that is wrong is said to be wrong, by number, and the others count.
func TestBadRows(t *testing.T) {
	good := func(id string) string { return "," + id + ",agent,ana,search,helps,identity" }
	for name, c := range map[string]struct {
		row  string
		text string
	}{
		"too few cells":       {",x,agent", "it has 3 cells, the header names 7 columns"},
		"too many cells":      {good("x") + ",more", "it has 8 cells"},
		"no owner":            {",x,agent,,search,helps,identity", "give owner"},
		"only spaces":         {",x,agent, ,search,  ,identity", "give owner, purpose"},
		"no kind":             {",x,,ana,search,helps,identity", `unknown kind ""`},
		"another kind":        {",x,bot,ana,search,helps,identity", `unknown kind "bot": want agent`},
		"no kill switch":      {",x,agent,ana,search,helps,", "kill_switch must be"},
		"a bad tenant":        {"ACME" + good("x"), "tenant must be"},
		"not ASCII":           {",sch\u00f6n,agent,ana,search,helps,identity", "identity must be 1 to 256 printable"},
		"not UTF-8":           {",x\xff,agent,ana,search,helps,identity", "identity is not UTF-8"},
		"the same again":      {good("first"), "acme/first stands in row 1 already"},
		"a bare quote":        {",x,agent,an\"a,search,helps,identity", "bare \" in non-quoted"},
		"10 MB in one cell":   {",x,agent,ana,search," + strings.Repeat("x", 10<<20) + ",identity", "bytes, at most 49152"},
		"10 MB over lines":    {",x,agent,ana,search,\"" + strings.Repeat("x\n", 5<<20) + "\",identity", "bytes, at most 49152"},
		"many cells":          {strings.Repeat(",", 100_000), "it has 100001 cells"},
		"control characters":  {",x\x00y,agent,ana,search,helps,identity", "identity must be 1 to 256 printable"},
		"a purpose too long":  {",x,agent,ana,search," + strings.Repeat("x", 1025) + ",identity", "/purpose"},
		"a formula as an id":  {",=cmd|x! ,agent,ana\u202e,search,helps,identity", "/owner"},
		"a cell that is JSON": {`,x,agent,ana,search,helps,{}`, "kill_switch must be"},
	} {
		rows, err := all(head + "\n" + good("first") + "\n" + c.row + "\n" + good("last") + "\n")
		require.NoError(t, err, name)
		require.Len(t, rows, 3, name)
		require.NoError(t, rows[0].Err, name)
		require.ErrorContains(t, rows[1].Err, c.text, name)
		require.Equal(t, 2, rows[1].Number, name)
		require.Equal(t, 3, rows[1].Line, name)
		require.Less(t, len(fmt.Sprint(rows[1].Record)), 4<<10, name)
		require.NoError(t, rows[2].Err, name)
		require.Equal(t, "last", rows[2].Entry.Identity, name)
	}
}

func TestBadCells(t *testing.T) {
	for _, c := range []struct{ column, cell, text string }{
		{"attestation", "https://idp.example", `attestation: "https://idp.example" is not ISSUER=SUBJECT`},
		{"attestation", "idp=x", "/attestation/0/issuer"},
		{"vendor_managed", "maybe", `vendor_managed: "maybe" is neither true nor false`},
		{"tools", "x", "tools: it is not the JSON that it must be"},
		{"tools", `"{""a"":[""x""],""a"":[]}"`, "duplicate"},
		{"scopes", `"a""b"`, "/scopes/0"},
		{"granted_scopes", "files.read", "what a third party reaches needs its vendor"},
	} {
		rows, err := all(head + "," + c.column + "\n,x,agent,ana,search,helps,identity," + c.cell + "\n")
		require.NoError(t, err, c.cell)
		require.Len(t, rows, 1)
		require.ErrorContains(t, rows[0].Err, c.text)
	}
}

func TestBadLines(t *testing.T) {
	good := func(id string) string {
		return `{"identity":"` + id + `","kind":"agent","owner":"ana","feature":"search","purpose":"helps","kill_switch":"identity"}`
	}
	for name, c := range map[string]struct{ row, text string }{
		"unknown member": {strings.Replace(good("x"), `"kind"`, `"admin":true,"kind"`, 1), "unknown object member"},
		"doubled member": {strings.Replace(good("x"), `"kind"`, `"identity":"y","kind"`, 1), "duplicate object member"},
		"half an object": {good("x")[:40], "it is not one JSON object"},
		"two objects":    {good("x") + good("y"), "it is not one JSON object"},
		"an array":       {"[" + good("x") + "]", "it is not one JSON object"},
		"null":           {"null", "tenant is missing"},
		"10 MB":          {strings.Repeat(" ", 10<<20) + good("x"), "bytes, at most 49152"},
		"not UTF-8":      {strings.Replace(good("x"), "ana", "an\xff", 1), "UTF-8"},
	} {
		rows, err := all(good("first") + "\n\n" + c.row + "\n" + good("last"))
		require.NoError(t, err, name)
		require.Len(t, rows, 3, name)
		require.ErrorContains(t, rows[1].Err, c.text, name)
		require.Equal(t, 2, rows[1].Number, name)
		require.Equal(t, 3, rows[1].Line, name)
		require.NoError(t, rows[2].Err, name)
	}
}

// TestBadFiles: of some files nobody can tell what a row is.
func TestBadFiles(t *testing.T) {
	const row = "acme,x,agent,ana,search,helps,identity\n"
	for name, c := range map[string]struct {
		in, text string
		rows     int
	}{
		"empty":                  {"", "the file is empty", 0},
		"white space":            {" \r\n\n", "the file is empty", 0},
		"a JSON array":           {"[{}]", "is a JSON array", 0},
		"UTF-16":                 {"\xff\xfei\x00d\x00", "save it as UTF-8", 0},
		"an unknown column":      {head + ",colour\n" + row, `unknown column "colour": the known ones are tenant, identity`, 0},
		"semicolons":             {strings.ReplaceAll(head, ",", ";") + "\n", "columns are separated by commas", 0},
		"a column twice":         {head + ",owner\n" + row, "names column owner twice", 0},
		"no owner":               {"identity,kind,feature,purpose,kill_switch\n", "the header lacks column owner", 0},
		"no header":              {row, `unknown column "acme"`, 0},
		"a broken gzip":          {"\x1f\x8bxxxxxxxx", "read gzip", 0},
		"a quote never closed":   {head + "\n" + row + "acme,y,agent,ana,search,\"helps,identity\n" + row, "row 2: line", 2},
		"text behind a quote":    {head + "\nacme,y,agent,ana,search,\"he said \"hi\"\nacme,evil,agent,eve,f,p,identity\n\",identity\n" + row, "nobody can tell where they begin", 1},
		"a quote that runs on":   {head + "\nacme,y,agent,ana,search,\"" + strings.Repeat("x\n", 10<<20), "is a quote never closed?", 1},
		"no tenant is not fatal": {head + "\n" + row, "", 1},
	} {
		rows, err := all(c.in)
		if c.text == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.text, name)
		}
		require.Len(t, rows, c.rows, name)
		for _, r := range rows {
			require.NotEqual(t, "evil", r.Entry.Identity, "text inside a cell is never a row")
			if errors.Is(r.Err, errLost) {
				require.Empty(t, r.Entry.Identity, name)
			}
		}
	}
}

// FuzzRead: whatever stands in a file, rows are numbered one by one, and each is a whole
// registration or has a reason.
func FuzzRead(f *testing.F) {
	f.Add([]byte(head + "\nacme,x,agent,ana,search,helps,identity\n"))
	f.Add([]byte(head + "\nacme,x,agent,ana,search,\"he\nlps\",identity\n,,,\n"))
	f.Add([]byte(`{"tenant":"acme","identity":"x","kind":"agent","owner":"a","feature":"f","purpose":"p","kill_switch":"identity"}`))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, in []byte) {
		n := 0
		for row, err := range Read(bytes.NewReader(in), "acme") {
			if err != nil {
				return
			}
			if n++; row.Number != n {
				t.Fatalf("row %d is numbered %d", n, row.Number)
			}
			if d := row.Entry; row.Err == nil && (d.Tenant == "" || d.Identity == "" || d.Owner == "" || d.Feature == "" || d.Purpose == "" || d.KillSwitch == "") {
				t.Fatalf("row %d is half a registration: %+v", n, d)
			}
		}
	})
}
