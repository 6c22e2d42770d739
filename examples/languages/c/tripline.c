// The world's imports and its export, by the canonical ABI.
#include "tripline.h"

// -- memory: everything of one attempt lies behind each other, and is gone when it has been answered.

extern uint8_t __heap_base;
static uintptr_t top;

static void *aligned(size_t align, size_t size) {
    if (top == 0) top = (uintptr_t)&__heap_base;
    uintptr_t at = (top + align - 1) & ~(uintptr_t)(align - 1);
    if (at < top || size > UINTPTR_MAX - at) __builtin_trap();
    uintptr_t has = __builtin_wasm_memory_size(0) << 16;
    if (at + size > has) {
        size_t pages = (at + size - has + 0xffff) >> 16;
        if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) __builtin_trap();
    }
    top = at + size;
    return (void *)at;
}

void *allocate(size_t size) { return aligned(8, size); }

// The host asks for memory by this before it writes there.
EXPORT("cabi_realloc") void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    void *new = aligned(align, size);
    if (old_size) __builtin_memcpy(new, old, old_size < size ? old_size : size);
    return new;
}

bytes join(const bytes *parts, size_t count) {
    uint32_t length = 0;
    for (size_t i = 0; i < count; i++) {
        if (__builtin_add_overflow(length, parts[i].length, &length)) __builtin_trap();
    }
    uint8_t *at = allocate(length), *next = at;
    for (size_t i = 0; i < count; i++) {
        __builtin_memcpy(next, parts[i].at, parts[i].length);
        next += parts[i].length;
    }
    return (bytes){at, length};
}

bool is_text(bytes bytes) {
    uint32_t i = 0;
    while (i < bytes.length) {
        uint8_t first = bytes.at[i++];
        if (first < 0x80) continue;
        // How many follow, and between what the first of them lies: no longer forms, no surrogates, no more than 21 bits.
        uint32_t more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if (first < 0xc2 || first > 0xf4 || bytes.length - i < more) return false;
        for (; more > 0; more--, low = 0x80, high = 0xbf) {
            uint8_t next = bytes.at[i++];
            if (next < low || next > high) return false;
        }
    }
    return true;
}

// -- imports: a result that is more than one number is written where the last argument says.

IMPORT("log", "write") void import_log(int32_t level, const uint8_t *message, uint32_t length);

void write_log(enum level level, bytes message) { import_log(level, message.at, message.length); }

typedef struct {
    uint8_t is_some;
    bytes text;
} option;

IMPORT("environment", "get") void import_environment(const uint8_t *name, uint32_t length, option *result);

bytes variable(bytes name) {
    option found;
    import_environment(name.at, name.length, &found);
    return found.is_some ? found.text : (bytes){NULL, 0};
}

typedef struct {
    uint8_t is_error;
    uint8_t padding[3];
    uint8_t error;
    bytes why;
} published;

IMPORT("messaging", "publish")
void import_publish(const uint8_t *subject, uint32_t subject_length, const void *headers, uint32_t header_count,
                    const uint8_t *payload, uint32_t payload_length, published *result);

bool publish(bytes subject, bytes payload, bytes *why) {
    published result;
    import_publish(subject.at, subject.length, NULL, 0, payload.at, payload.length, &result);
    if (result.is_error) *why = result.why;
    return !result.is_error;
}

// -- the export

// `result<list<u8>, failure>` in memory: which of the two, then the list, or the failure's case and what it holds.
typedef struct {
    uint8_t is_error;
    union {
        bytes answer;
        struct {
            uint8_t kind;
            struct {
                bytes message;
                uint64_t after_millis;
            } of __attribute__((aligned(8)));
        } failure;
    } of __attribute__((aligned(8)));
} answered;

_Static_assert(offsetof(answered, of.failure.of.after_millis) == 24, "the layout of the canonical ABI");
_Static_assert(sizeof(published) == 16 && offsetof(published, why) == 8, "the layout of the canonical ABI");

EXPORT("handle")
answered *export_handle(const uint8_t *id, uint32_t id_length, int32_t trigger, const uint8_t *subject,
                        uint32_t subject_length, int32_t has_content_type, const uint8_t *content_type,
                        uint32_t content_type_length, uint32_t attempt, const uint8_t *payload,
                        uint32_t payload_length) {
    context cx = {
        .invocation_id = {id, id_length},
        .trigger = (enum trigger)trigger,
        .subject = {subject, subject_length},
        .content_type = has_content_type ? (bytes){content_type, content_type_length} : (bytes){NULL, 0},
        .attempt = attempt,
    };
    outcome outcome = handle(&cx, (bytes){payload, payload_length});
    answered *answered = allocate(sizeof *answered);
    answered->is_error = outcome.ending != OK;
    if (outcome.ending == OK) {
        answered->of.answer = outcome.value;
    } else {
        answered->of.failure.kind = outcome.ending - RETRYABLE;
        answered->of.failure.of.message = outcome.value;
        answered->of.failure.of.after_millis = outcome.after_millis;
    }
    return answered;
}

// The host calls this when it has read the answer.
EXPORT("cabi_post_handle") void after_handle(answered *answered) {
    (void)answered;
    top = 0;
}
