//! What a function in Zig needs of the world in wit/: its context, four of its imports, and memory.
//!
//! A component's functions take and answer numbers; text and lists are addresses and lengths in the guest's memory. The
//! canonical ABI of the component model says how. What is here follows it by hand, so no generator is needed.

const std = @import("std");
const function = @import("root");

/// The kinds of triggers, in the order of the world.
pub const Trigger = enum(u32) { http, websocket, cron, database, pubsub, timer, job };

/// The event, but for its payload.
pub const Context = struct {
    invocation_id: []const u8,
    trigger: Trigger,
    subject: []const u8,
    /// Where it is known.
    content_type: ?[]const u8,
    attempt: u32,
};

/// How an attempt ended.
pub const Outcome = union(enum) {
    ok: []const u8,
    /// Another attempt may go better.
    retryable: []const u8,
    /// No attempt will ever go better.
    permanent: []const u8,
    /// Another attempt is welcome after this time.
    retry_after: struct { message: []const u8, millis: u64 },
};

// -- memory: everything of one attempt lies behind each other, and is gone when it has been answered.

var arena: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);

/// Memory until the end of the attempt: there is nothing to free.
pub const allocator = arena.allocator();

/// Several texts behind each other. Without memory for them the attempt traps.
pub fn join(parts: []const []const u8) []const u8 {
    return std.mem.concat(allocator, u8, parts) catch @trap();
}

// The host asks for memory by this before it writes there.
export fn cabi_realloc(old: ?[*]const u8, old_size: usize, alignment: usize, size: usize) [*]u8 {
    const new = allocator.rawAlloc(@max(size, 1), .fromByteUnits(alignment), 0) orelse @trap();
    const kept = @min(old_size, size);
    if (old) |bytes| @memcpy(new[0..kept], bytes[0..kept]);
    return new;
}

// -- imports: a result that is more than one number is written where the last argument says.

const imports = struct {
    extern "tripline:function/log@0.1.0" fn write(level: u32, message: [*]const u8, length: usize) void;
    extern "tripline:function/environment@0.1.0" fn get(name: [*]const u8, length: usize, result: *Option) void;
    extern "tripline:function/messaging@0.1.0" fn publish(
        subject: [*]const u8,
        subject_length: usize,
        headers: usize,
        header_count: usize,
        payload: [*]const u8,
        payload_length: usize,
        result: *Published,
    ) void;

    const Option = extern struct { is_some: u8, text: Bytes };
    const Published = extern struct { is_error: u8, case: u8 align(4), why: Bytes };
};

/// Bytes, or text in UTF-8, as they lie in memory.
const Bytes = extern struct {
    at: [*]const u8,
    length: usize,

    fn of(slice: []const u8) Bytes {
        return .{ .at = slice.ptr, .length = slice.len };
    }
    fn get(bytes: Bytes) []const u8 {
        return bytes.at[0..bytes.length];
    }
};

pub const Level = enum(u32) { trace, debug, info, warn, err };

/// A line for the trace.
pub fn log(level: Level, message: []const u8) void {
    imports.write(@intFromEnum(level), message.ptr, message.len);
}

/// A variable of the definition's `env_vars`, if there is one of this name.
pub fn variable(name: []const u8) ?[]const u8 {
    var found: imports.Option = undefined;
    imports.get(name.ptr, name.len, &found);
    return if (found.is_some != 0) found.text.get() else null;
}

/// Publishes a message when the attempt succeeds. Answers why it will not, where that is known already.
pub fn publish(subject: []const u8, payload: []const u8) ?[]const u8 {
    var result: imports.Published = undefined;
    imports.publish(subject.ptr, subject.len, 0, 0, payload.ptr, payload.len, &result);
    return if (result.is_error != 0) result.why.get() else null;
}

// -- the export

/// `result<list<u8>, failure>` in memory: which of the two, then the list, or the failure's case and what it holds.
const Answered = extern struct {
    is_error: u8,
    of: extern union {
        answer: Bytes,
        failure: extern struct { case: u8, message: Bytes align(8), millis: u64 },
    },
};

comptime {
    std.debug.assert(@offsetOf(Answered, "of") == 8 and @sizeOf(Answered) == 32);
    std.debug.assert(@offsetOf(imports.Published, "why") == 8 and @sizeOf(imports.Published) == 16);
}

export fn handle(
    id: [*]const u8,
    id_length: usize,
    trigger: u32,
    subject: [*]const u8,
    subject_length: usize,
    has_content_type: u32,
    content_type: [*]const u8,
    content_type_length: usize,
    attempt: u32,
    payload: [*]const u8,
    payload_length: usize,
) *Answered {
    const cx: Context = .{
        .invocation_id = id[0..id_length],
        .trigger = @enumFromInt(trigger),
        .subject = subject[0..subject_length],
        .content_type = if (has_content_type != 0) content_type[0..content_type_length] else null,
        .attempt = attempt,
    };
    const answered = allocator.create(Answered) catch @trap();
    answered.* = switch (function.handle(cx, payload[0..payload_length])) {
        .ok => |answer| .{ .is_error = 0, .of = .{ .answer = .of(answer) } },
        .retryable => |message| failed(0, message, 0),
        .permanent => |message| failed(1, message, 0),
        .retry_after => |later| failed(2, later.message, later.millis),
    };
    return answered;
}

fn failed(case: u8, message: []const u8, millis: u64) Answered {
    return .{ .is_error = 1, .of = .{ .failure = .{ .case = case, .message = .of(message), .millis = millis } } };
}

// The host calls this when it has read the answer.
export fn cabi_post_handle(answered: *Answered) void {
    _ = answered;
    _ = arena.reset(.retain_capacity);
}
