import { readFile } from 'node:fs/promises';
import autocannon from 'autocannon';
import type { Load } from './http.ts';
import type { Request } from '../workloads/requests.ts';

// node autocannon.ts <url> <file of requests> <seconds> <connections>: prints a Load as JSON.

const [url, file = '', seconds, connections] = process.argv.slice(2);
const requests = JSON.parse(await readFile(file, 'utf8')) as Request[];
const result = await autocannon({
  url,
  duration: Number(seconds),
  connections: Number(connections),
  requests: requests.map(({ authorization, body }) => ({
    method: 'POST',
    body,
    headers: {
      'content-type': 'application/json',
      accept: 'application/json',
      ...(authorization === null ? {} : { authorization }),
    },
  })),
});
const { user, system } = process.cpuUsage();
const answer: Load = {
  requests: result.requests.total,
  perSecond: result.requests.total / result.duration,
  p50: result.latency.p50,
  p99: result.latency.p99,
  errors: result.errors + result.non2xx,
  cpuUs: user + system,
};
console.log(JSON.stringify(answer));
