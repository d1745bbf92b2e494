// Command missing prints what this machine lacks for a real node, and nothing if it lacks
// nothing.
package main

import (
	"context"
	"fmt"

	"offduty.dev/test/cluster/node"
)

func main() {
	if err := node.Missing(context.Background()); err != nil {
		fmt.Println(err)
	}
}
