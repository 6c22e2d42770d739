// What a function in C needs of the world in wit/: its types as they lie in memory, four of its imports, and memory.
//
// A component's functions take and answer numbers; text and lists are addresses and lengths in the guest's memory. The
// canonical ABI of the component model says how. What is here follows it by hand, so no generator is needed; `wit-bindgen
// c wit --world function` writes the same for the whole world.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT(interface, function) \
    __attribute__((import_module("tripline:function/" interface "@0.1.0"), import_name(function)))
#define EXPORT(function) __attribute__((export_name(function)))

// Bytes, or text in UTF-8: not ended by a zero.
typedef struct {
    const uint8_t *at;
    uint32_t length;
} bytes;

#define TEXT(literal) ((bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

// The kinds of triggers, in the order of the world.
enum trigger { HTTP, WEBSOCKET, CRON, DATABASE, PUBSUB, TIMER, JOB };

// The event, but for its payload.
typedef struct {
    bytes invocation_id;
    enum trigger trigger;
    bytes subject;
    bytes content_type; // `at` is NULL where it is not known
    uint32_t attempt;
} context;

// How an attempt ended.
enum ending { OK, RETRYABLE, PERMANENT, RETRY_AFTER };

typedef struct {
    enum ending ending;
    bytes value;          // the answer, or what went wrong
    uint64_t after_millis; // for RETRY_AFTER
} outcome;

// The function: what a program with this header writes.
outcome handle(const context *cx, bytes payload);

// Memory until the end of the attempt. There is nothing to free; without memory the attempt traps.
void *allocate(size_t size);

// Several bytes behind each other.
bytes join(const bytes *parts, size_t count);

// Whether bytes are text in UTF-8. The host traps a function that passes off others as text.
bool is_text(bytes bytes);

enum level { TRACE, DEBUG, INFO, WARN, ERROR };

// A line for the trace.
void write_log(enum level level, bytes message);

// A variable of the definition's `env_vars`; `at` is NULL where there is none.
bytes variable(bytes name);

// Publishes a message when the attempt succeeds. Answers whether it will; `why` says why not.
bool publish(bytes subject, bytes payload, bytes *why);
