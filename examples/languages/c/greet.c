// Greets whom the payload names.
#include "tripline.h"

outcome handle(const context *cx, bytes name) {
    (void)cx;
    if (!is_text(name)) return (outcome){PERMANENT, TEXT("the payload is no UTF-8 text"), 0};
    if (name.length == 0) return (outcome){PERMANENT, TEXT("the payload names nobody to greet"), 0};
    write_log(INFO, join((bytes[]){TEXT("greeting "), name}, 2));
    bytes why;
    if (!publish(TEXT("greetings.sent"), name, &why)) return (outcome){PERMANENT, why, 0};
    bytes greeting = variable(TEXT("GREETING"));
    if (!greeting.at) greeting = TEXT("Hello");
    return (outcome){OK, join((bytes[]){greeting, TEXT(", "), name, TEXT("!\n")}, 4), 0};
}
