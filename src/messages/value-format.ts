/**
 * How plain data travels between threads: in words (int32), so that no value takes a native call of its own.
 *
 * A payload is a header, the shapes of its objects, its values, and the text of its short strings, first that of UTF-16 and then
 * that of Latin-1, each in whole words. A value begins with a word: the tag in the low bits, above it a small integer, a length,
 * a count or an index. A shape is the names of an object's properties in their order; a message explains all that it uses, and
 * who reads it recognises those that it has seen.
 *
 * It is our own because what there is falls short: V8's Serializer takes 2 µs to begin with, JSON knows no Map, no Date and no object that
 * occurs twice, and msgpackr (`structuredClone: true`) takes twice as long, and makes something else of proxies, holes, -0, `__proto__`
 * and lone surrogates.
 *
 * One thing is not as structured clone has it: a Map, a Promise or the like whose prototype was replaced by that of ordinary objects, and which
 * has properties of its own, arrives as an object with these. To tell would take a dozen native calls for each object.
 */

/** Word of the header: words of values. */
export const HEADER_VALUES = 0
/** Word of the header: number of shapes. */
export const HEADER_SHAPES = 1
/** Word of the header: characters of UTF-16. */
export const HEADER_WIDE = 2
/** Word of the header: characters of Latin-1. */
export const HEADER_NARROW = 3
/** Word of the header: 1 when an object occurs twice. */
export const HEADER_AGAIN = 4
/** Words of the header. */
export const HEADER_WORDS = 5

/** Word of a shape: hash of what follows. */
export const SHAPE_HASH = 0
/** Word of a shape: number of names. */
export const SHAPE_NAMES = 1
/** Word of a shape: their bytes in Latin-1, a {@link SHAPE_SEPARATOR} behind each. */
export const SHAPE_BYTES = 2
/** Words of a shape in front of its names. */
export const SHAPE_HEADER_WORDS = 3
/** A name that has it is in no shape. */
export const SHAPE_SEPARATOR = 0
/** Bytes of the largest shape. */
export const SHAPE_MAX_BYTES = 1024
/** Names in the shapes that a thread knows as a sender, each once for what is in front of it; when there are more it forgets them all. */
export const SENT_NAMES_MAX = 4096
/** Names that may follow the same names before one must have been seen there twice, lately: keys of dictionaries rarely are. */
export const FOLLOWERS_MAX = 16
/** Names seen once that a thread knows; as above. */
export const CANDIDATES_MAX = 256
/** Shapes that a thread knows as a receiver; as above. */
export const RECEIVED_SHAPES_MAX = 1024
/** Shapes of a payload. One with more is V8's affair: to make each of them known takes longer than what V8 does. */
export const PAYLOAD_SHAPES_MAX = 512

/** Bits of the tag. */
export const TAG_BITS = 5
export const TAG_MASK: number = (1 << TAG_BITS) - 1

/** An integer of the bits above the tag. */
export const TAG_INTEGER = 0
/** Any other number: two words. */
export const TAG_NUMBER = 1
/** The next characters of the Latin-1 text; above: how many. */
export const TAG_NARROW = 2
/** The next characters of the UTF-16 text; above: how many. */
export const TAG_WIDE = 3
/** A long string in Latin-1, which follows; above: how many characters. */
export const TAG_LONG_NARROW = 4
/** ... in UTF-16. */
export const TAG_LONG_WIDE = 5
export const TAG_UNDEFINED = 6
export const TAG_NULL = 7
export const TAG_TRUE = 8
export const TAG_FALSE = 9
/** An object; above: index of its shape in the payload. The values of its properties follow. */
export const TAG_OBJECT = 10
/** An object with more properties than its shape: behind the values of that a word of their number, and their names, as strings, and values. */
export const TAG_OBJECT_AND_MORE = 11
/** Above: how many elements, which follow. */
export const TAG_ARRAY = 12
/** Two words: the time, a float64. */
export const TAG_DATE = 13
/** Above: how many pairs, which follow. */
export const TAG_MAP = 14
/** Above: how many values, which follow. */
export const TAG_SET = 15
/** A BigInt; above: 1 when it is negative. Its size follows, as a string of hexadecimal digits. */
export const TAG_BIGINT = 16
/** A typed array or a DataView; above: the number of its class. A word of its length in bytes and the bytes follow. */
export const TAG_VIEW = 17
/** An object that came before; above: which one, in the order in which they began. */
export const TAG_AGAIN = 18

/** Characters up to which a string is short. A short one is copied by JavaScript; of a long one that takes longer than a native call. */
export const SHORT_MAX = 24
/**
 * Bytes of a payload, and so lengths and counts fit above the tag. A larger one is V8's affair, which is then as fast; it may be too large
 * for the mailbox altogether.
 */
export const VALUES_MAX_BYTES: number = 4 * 1024 * 1024
/** What is nested deeper is V8's affair, which knows the end of the stack. */
export const DEPTH_MAX = 64

/** What a payload that is cut short or otherwise wrong is. */
export function damaged(): Error {
  return new Error('a payload is damaged')
}
