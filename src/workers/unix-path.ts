/** Bytes of `sun_path` (unix(7)); a path also needs a zero behind it, an abstract name does not. */
const SUN_PATH_BYTES = process.platform === 'linux' ? 108 : 104

/** What a Unix socket can be called on this system, for messages. */
export const UNIX_PATH_EXPECTED: string =
  process.platform === 'linux'
    ? `a path of 1 to ${SUN_PATH_BYTES - 1} bytes, or '\\0' and an abstract name of as many`
    : `a path of 1 to ${SUN_PATH_BYTES - 1} bytes`

/** Whether a Unix socket can be called so here: by a path, or on Linux by an abstract name behind a zero character. */
export function isUnixPath(value: unknown): value is string {
  if (typeof value !== 'string' || value === '' || value === '\0') return false
  if (Buffer.byteLength(value) >= SUN_PATH_BYTES + (value.startsWith('\0') ? 1 : 0)) return false
  return value.startsWith('\0') ? process.platform === 'linux' : !value.includes('\0')
}
