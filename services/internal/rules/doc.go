// Package rules holds no code: its tests keep the house rules of CONTRIBUTING.md
// true for every module. Nothing imports it.
package rules
