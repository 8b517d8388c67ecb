import { createServer } from 'node:http';
import { listen } from './serve.ts';

/** What can be made: runs that are executed, events of the log. */
type Made = 'runs' | 'events';

/** Lets the bench ask: a POST of `{"runs": n}` or `{"events": n}` is answered when so many are over; anything else at once. */
export function serveRuns(make: Readonly<Record<Made, (count: number) => Promise<void>>>): void {
  listen(
    createServer((request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (text: string) => (body += text));
      request.on('end', () => {
        const { runs = 0, events = 0 } = JSON.parse(body) as Partial<Record<Made, number>>;
        (events > 0 ? make.events(events) : runs > 0 ? make.runs(runs) : Promise.resolve()).then(
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
