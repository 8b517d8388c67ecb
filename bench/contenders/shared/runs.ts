import { createServer } from 'node:http';
import { listen } from './serve.ts';

/** Lets the bench ask for runs: a POST of `{"runs": n}` is answered when so many are over; anything else at once. */
export function serveRuns(make: (count: number) => Promise<void>): void {
  listen(
    createServer((request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (text: string) => (body += text));
      request.on('end', () => {
        const { runs = 0 } = JSON.parse(body) as { runs?: number };
        make(runs).then(
          () => response.end('{}'),
          (error: unknown) => response.writeHead(500).end(String(error)),
        );
      });
    }),
  );
}

/** Does something so many times, some at once. */
export async function times(count: number, what: (index: number) => Promise<unknown>, atOnce = 8): Promise<void> {
  let next = 0;
  const one = async () => {
    for (let index = next++; index < count; index = next++) await what(index);
  };
  await Promise.all(Array.from({ length: atOnce }, one));
}
