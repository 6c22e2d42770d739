//! Greets whom the payload names.

const std = @import("std");
const tripline = @import("tripline.zig");

pub fn handle(cx: tripline.Context, name: []const u8) tripline.Outcome {
    _ = cx;
    if (!std.unicode.utf8ValidateSlice(name)) return .{ .permanent = "the payload is no UTF-8 text" };
    if (name.len == 0) return .{ .permanent = "the payload names nobody to greet" };
    tripline.log(.info, tripline.join(&.{ "greeting ", name }));
    if (tripline.publish("greetings.sent", name)) |why| return .{ .permanent = why };
    const greeting = tripline.variable("GREETING") orelse "Hello";
    return .{ .ok = tripline.join(&.{ greeting, ", ", name, "!\n" }) };
}

// Its exports are there though nobody in Zig calls them.
comptime {
    _ = tripline;
}
