// Greets whom the payload names: a WASI command.
package main

import (
	"fmt"
	"io"
	"os"
)

// The input is wrong and will be wrong next time (EX_DATAERR of sysexits.h): a failure for good.
const dataError = 65

func main() {
	name, err := io.ReadAll(os.Stdin)
	if err != nil || len(name) == 0 {
		fmt.Fprintln(os.Stderr, "the payload names nobody to greet")
		os.Exit(dataError)
	}
	fmt.Fprintf(os.Stderr, "greeting %s\n", name)
	greeting, found := os.LookupEnv("GREETING")
	if !found {
		greeting = "Hello"
	}
	fmt.Printf("%s, %s!\n", greeting, name)
}
