import { expect, it } from 'vitest';
import { createMetrics } from '#kernel/telemetry/metrics.ts';

it('keeps the numbers of each app apart, and reads the pool when scraped', async () => {
  const [one, two] = [createMetrics({ processMetrics: false }), createMetrics({ processMetrics: false })];
  one.httpRequests.of('/graphql', '200').inc();
  one.runTransitions.inc({ kind: 'DEPLOYMENT', from: 'QUEUED', to: 'RUNNING' });
  one.graphqlOperationSeconds.of('query', 'ok').observe(0.02);
  one.graphqlOperationSeconds.of('query', 'ok').observe(31);
  one.liveSubscribers.inc();
  let waiting = 1;
  one.observeDatabasePool(() => ({ total: 10, idle: 2, waiting }));
  waiting = 5;
  const text = await one.registry.metrics();
  for (const line of [
    'switchyard_http_requests_total{route="/graphql",status="200"} 1',
    'switchyard_run_transitions_total{kind="DEPLOYMENT",from="QUEUED",to="RUNNING"} 1',
    'switchyard_graphql_operation_seconds_bucket{le="0.01",type="query",outcome="ok"} 0',
    'switchyard_graphql_operation_seconds_bucket{le="0.025",type="query",outcome="ok"} 1',
    'switchyard_graphql_operation_seconds_bucket{le="30",type="query",outcome="ok"} 1',
    'switchyard_graphql_operation_seconds_bucket{le="+Inf",type="query",outcome="ok"} 2',
    'switchyard_graphql_operation_seconds_sum{type="query",outcome="ok"} 31.02',
    'switchyard_graphql_operation_seconds_count{type="query",outcome="ok"} 2',
    'switchyard_live_subscribers 1',
    'switchyard_database_pool{state="waiting"} 5',
  ]) {
    expect(text).toContain(line);
  }
  const other = await two.registry.metrics();
  expect(other).not.toContain('/graphql');
  expect(other).not.toContain('state="waiting"');
});

it('measures the process too', async () => {
  const text = await createMetrics().registry.metrics();
  expect(text).toContain('process_resident_memory_bytes');
  expect(text).toContain('nodejs_eventloop_lag_seconds');
});
