// Renders chats by templates as Ollama does: one JSON object a line in, one JSON string a line out.
//
// The template engine is Go's own, which Ollama uses; what it is given follows Ollama's
// template package: all system texts joined as .System, neighbours of one role joined in .Messages.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type request struct {
	Template string    `json:"template"`
	Messages []message `json:"messages"`
}

func render(asked request) (string, error) {
	parsed, err := template.New("").Option("missingkey=zero").Parse(asked.Template)
	if err != nil {
		return "", err
	}
	var system []string
	var turns []*message
	for i := range asked.Messages {
		one := asked.Messages[i]
		if one.Role == "system" {
			system = append(system, one.Content)
		}
		if last := len(turns) - 1; last >= 0 && turns[last].Role == one.Role {
			turns[last].Content += "\n\n" + one.Content
		} else {
			turns = append(turns, &one)
		}
	}
	var text strings.Builder
	err = parsed.Execute(&text, map[string]any{
		"System":   strings.Join(system, "\n\n"),
		"Messages": turns,
		"Tools":    nil,
		"Response": "",
	})
	return text.String(), err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		text, err := render(asked)
		if err != nil {
			panic(err)
		}
		if err := out.Encode(text); err != nil {
			panic(err)
		}
	}
}
