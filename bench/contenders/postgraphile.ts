import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

process.env['GRAPHILE_ENV'] = 'production';
const { postgraphile } = await import('postgraphile');
const { PostGraphileAmberPreset } = await import('postgraphile/presets/amber');
const { makePgService } = await import('postgraphile/adaptors/pg');
const { grafserv } = await import('postgraphile/grafserv/node');
const { databaseUrl, listen, poolMax } = await import('./shared/serve.ts');

// PostGraphile, without rights; with CLAIMS_SECRET, row level security by the claims of a signed token.

const secret = process.env['CLAIMS_SECRET'];

/** Settings of the transaction that a request's statements are executed in. @throws without a good token */
function claims(authorization: string | undefined): Record<string, string> {
  const [, head = '', body = '', signature = ''] =
    /^Bearer ([\w-]+)\.([\w-]+)\.([\w-]+)$/.exec(authorization ?? '') ?? [];
  const expected = createHmac('sha256', secret ?? '')
    .update(`${head}.${body}`)
    .digest();
  const given = Buffer.from(signature, 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new Error('Sign in');
  const { sub, workspace } = JSON.parse(Buffer.from(body, 'base64url').toString()) as {
    sub: string;
    workspace: string;
  };
  return { role: 'bench_rls', 'bench.user': sub, 'bench.workspace': workspace };
}

const server = createServer();
const instance = postgraphile({
  extends: [PostGraphileAmberPreset],
  grafserv: { graphiql: false, watch: false },
  grafast: {
    explain: false,
    ...(secret ? { context: ({ node }) => ({ pgSettings: claims(node?.req.headers.authorization) }) } : {}),
  },
  pgServices: [makePgService({ connectionString: databaseUrl, schemas: ['public'], poolConfig: { max: poolMax } })],
});
if (process.env['PRINT_SCHEMA']) {
  const { printSchema } = await import('graphql');
  const { schema } = await instance.getSchemaResult();
  console.log(printSchema(schema));
  process.exit(0);
}
await instance.createServ(grafserv).addTo(server);
listen(server);
