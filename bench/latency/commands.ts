/** Answers the benchmark's requests, one word a line on stdin, and SIGTERM; see ../inside.ts. */
import { createInterface } from 'node:readline'

/**
 * `answer` gets `reset`, `report` or `heap`, one at a time, and on SIGTERM `end`, whose answer is printed like a report.
 * After that `close` ends what keeps the process alive.
 */
export function answerStdin(answer: (request: string) => Promise<unknown>, close: () => Promise<void>): void {
  const lines = createInterface({ input: process.stdin })
  let turn = Promise.resolve()
  const print = (request: string): Promise<void> => {
    turn = turn.then(async () => console.log(JSON.stringify(await answer(request))))
    return turn
  }
  const fail = (error: unknown): void => {
    console.error(error)
    process.exitCode = 1
  }
  lines.on('line', (line) => {
    print(line.trim()).catch(fail)
  })
  process.once('SIGTERM', () => {
    lines.close()
    // An open pipe on stdin would keep the process alive.
    process.stdin.destroy()
    print('end').then(close).catch(fail)
  })
}
