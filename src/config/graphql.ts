import { flag, folder, oneOf, optional, outsideProduction, setting, whole } from './kit.ts';

export const graphql = {
  SWITCHYARD_MAX_DEPTH: setting({
    group: 'GraphQL',
    description: 'Deepest nesting of fields in a document.',
    unit: 'levels',
    default: '12',
    example: '10',
    schema: whole(1, 100),
  }),
  SWITCHYARD_MAX_ALIASES: setting({
    group: 'GraphQL',
    description: 'Most aliases in a document.',
    unit: 'aliases',
    default: '30',
    example: '15',
    schema: whole(0, 10_000),
  }),
  SWITCHYARD_MAX_COST: setting({
    group: 'GraphQL',
    description: 'Highest cost of an operation: one point a field, times the size of the lists around it.',
    unit: 'points',
    default: '5000',
    example: '2000',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_TOKENS: setting({
    group: 'GraphQL',
    description: 'Most lexical tokens in a document.',
    unit: 'tokens',
    default: '2000',
    example: '1000',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_MAX_BATCH: setting({
    group: 'GraphQL',
    description: 'Most operations in one HTTP request.',
    unit: 'operations',
    default: '10',
    example: '1',
    schema: whole(1, 1000),
  }),
  SWITCHYARD_MAX_SOCKETS_PER_ACTOR: setting({
    group: 'GraphQL',
    description:
      'Most WebSocket connections and event streams together of one person or API key, or of one address where nobody is signed in, to one process.',
    unit: 'connections',
    default: '50',
    example: '10',
    schema: whole(1, 100_000),
  }),
  SWITCHYARD_MAX_SUBSCRIPTIONS_PER_SOCKET: setting({
    group: 'GraphQL',
    description: 'Most operations that run at once on one WebSocket connection.',
    unit: 'operations',
    default: '100',
    example: '20',
    schema: whole(1, 100_000),
  }),
  SWITCHYARD_MAX_MESSAGES_PER_S: setting({
    group: 'GraphQL',
    description: 'Most messages a second on one WebSocket connection in the long run; five times as many at once.',
    unit: 'messages/s',
    default: '100',
    example: '20',
    schema: whole(1, 100_000),
  }),
  SWITCHYARD_SHARED_EXECUTION: setting({
    group: 'GraphQL',
    description:
      'Execute an event once for all WebSocket subscribers with the same document, variables and rights, and not for each.',
    default: 'true',
    example: 'false',
    schema: flag,
  }),
  SWITCHYARD_RATES: setting({
    group: 'GraphQL',
    description:
      'Where the points of operations are counted. memory: each process for itself, which is exact with one API process, and with n gives a client n budgets. postgresql: all processes together, at one more statement an operation. redis: all together, cheaper; needs REDIS_URL. What is tried rarely, such as signing in, always counts for all processes: in PostgreSQL, or in Redis with redis.',
    default: {
      words: 'redis with REDIS_URL, else memory',
      of: ({ env }) => (env.has('REDIS_URL') ? 'redis' : 'memory'),
    },
    example: 'postgresql',
    schema: oneOf(['memory', 'postgresql', 'redis']),
  }),
  SWITCHYARD_RATE_POINTS: setting({
    group: 'GraphQL',
    description:
      'Points that the operations of one person or API key may cost in a minute. SWITCHYARD_RATES says whether all processes count together.',
    unit: 'points/min',
    // The dearest operation once a second.
    default: '300000',
    example: '20000',
    schema: whole(1, 1_000_000_000),
  }),
  SWITCHYARD_RATE_POINTS_ANONYMOUS: setting({
    group: 'GraphQL',
    description:
      'The same for everybody together at one address (IPv6: one /64) who is not signed in. Asking for the schema costs 1000.',
    unit: 'points/min',
    default: '20000',
    example: '5000',
    schema: whole(1, 1_000_000_000),
  }),
  SWITCHYARD_GRAPHIQL: setting({
    group: 'GraphQL',
    description: 'Serve the GraphiQL explorer.',
    default: outsideProduction,
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_INTROSPECTION: setting({
    group: 'GraphQL',
    description: 'Answer introspection queries.',
    default: outsideProduction,
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_COMPILE: setting({
    group: 'GraphQL',
    description:
      'Execute queries that allow it as one SQL statement, and read rows beside the events of a stream so. They answer the same without, only slower.',
    default: 'true',
    example: 'false',
    schema: flag,
  }),
  SWITCHYARD_PERSISTED_ONLY: setting({
    group: 'GraphQL',
    description: 'Execute only the documents of SWITCHYARD_PERSISTED_FILE.',
    default: 'false',
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_PERSISTED_FILE: optional({
    group: 'GraphQL',
    description: 'JSON file with one object: SHA-256 of a document (hexadecimal) → the document.',
    example: '/etc/switchyard/persisted-documents.json',
    schema: folder,
  }),
} as const;
