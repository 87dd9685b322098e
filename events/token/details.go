package token

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of authorization_details: a token must stay well below MaxSize.
const (
	maxDetails     = 16
	maxDetailList  = 32
	maxDetailText  = 256     // bytes
	maxDetailsSize = 4 << 10 // bytes of the whole array
)

// ErrDetails means authorization_details that cannot be understood.
var ErrDetails = errors.New("not authorization_details with the common members only")

// Detail is one element of authorization_details with the members that are common to all
// types (RFC 9396 sections 2.1 and 2.2). What it grants is the product of its members.
type Detail struct {
	Type       string   `json:"type"`
	Locations  []string `json:"locations,omitempty"`
	Actions    []string `json:"actions,omitempty"`
	DataTypes  []string `json:"datatypes,omitempty"`
	Identifier string   `json:"identifier,omitempty"`
	Privileges []string `json:"privileges,omitempty"`
}

// Covers reports whether child grants no more than x. What an absent member means is up
// to the type: everything, or nothing. So members that only one of the two has are not
// compared but refused, which narrows by either reading.
func (x Detail) Covers(child Detail) bool {
	return x.Type == child.Type && x.Identifier == child.Identifier && within(child.Locations, x.Locations) &&
		within(child.Actions, x.Actions) && within(child.DataTypes, x.DataTypes) && within(child.Privileges, x.Privileges)
}

// Covered reports whether one of list covers child.
func Covered(child Detail, list []Detail) bool {
	return slices.ContainsFunc(list, func(d Detail) bool { return d.Covers(child) })
}

func within(child, parent []string) bool {
	if len(child) == 0 || len(parent) == 0 {
		return len(child) == len(parent)
	}
	for _, c := range child {
		if !slices.Contains(parent, c) {
			return false
		}
	}
	return true
}

// ParseDetails reads authorization_details strictly: an array of at most 16 objects and
// 4 KiB, without unknown or doubled members, empty lists or empty texts. The result is not
// nil.
func ParseDetails(b []byte) ([]Detail, error) {
	if len(b) > maxDetailsSize {
		return nil, fmt.Errorf("read details: %w: longer than %d bytes", ErrDetails, maxDetailsSize)
	}
	var out []Detail
	dec := reader(b)
	if err := details(dec, &out); err != nil {
		return nil, fmt.Errorf("read details: %w: %w", ErrDetails, err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read details: %w: something follows the array", ErrDetails)
	}
	return out, nil
}

func details(d *jsontext.Decoder, dst *[]Detail) error {
	*dst = []Detail{}
	return array(d, func() error {
		if len(*dst) == maxDetails {
			return fmt.Errorf("more than %d elements", maxDetails)
		}
		var x Detail
		if err := object(d, x.member, false); err != nil {
			return err
		}
		if x.Type == "" {
			return errors.New("an element has no type")
		}
		*dst = append(*dst, x)
		return nil
	})
}

func (x *Detail) member(d *jsontext.Decoder, name []byte) error {
	switch string(name) {
	case "type":
		return detailText(d, &x.Type)
	case "locations":
		return detailList(d, &x.Locations)
	case "actions":
		return detailList(d, &x.Actions)
	case "datatypes":
		return detailList(d, &x.DataTypes)
	case "identifier":
		return detailText(d, &x.Identifier)
	case "privileges":
		return detailList(d, &x.Privileges)
	}
	return fmt.Errorf("unknown member %q", clip(string(name)))
}

func detailText(d *jsontext.Decoder, dst *string) error {
	if err := text(d, dst); err != nil {
		return err
	}
	if *dst == "" || len(*dst) > maxDetailText {
		return fmt.Errorf("a text is empty or longer than %d bytes", maxDetailText)
	}
	return nil
}

func detailList(d *jsontext.Decoder, dst *[]string) error {
	err := array(d, func() error {
		if len(*dst) == maxDetailList {
			return fmt.Errorf("a list has more than %d elements", maxDetailList)
		}
		*dst = append(*dst, "")
		return detailText(d, &(*dst)[len(*dst)-1])
	})
	if err == nil && len(*dst) == 0 {
		err = errors.New("a list is empty")
	}
	return err
}
