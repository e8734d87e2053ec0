/** Redis' words for what several commands refuse. */
export const NOT_AN_INTEGER = 'value is not an integer or out of range'
export const SYNTAX_ERROR = 'syntax error'
export const OUT_OF_MEMORY = "command not allowed when used memory > 'maxmemory'."
export const INVALID_EXPIRE = (command: string): string => `invalid expire time in '${command}' command`

/** Ours: Redis has no such bound. */
export const TOO_LONG_REPLIES = 'too long replies in one pipeline: ask for less at once'

/** Latest time of expiry, in milliseconds since 1970. */
export const EXPIRE_MAX_MS: number = Number.MAX_SAFE_INTEGER
