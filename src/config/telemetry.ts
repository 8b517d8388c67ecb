import { optional, secretText, webUrl } from './kit.ts';

export const telemetry = {
  OTEL_EXPORTER_OTLP_ENDPOINT: optional({
    group: 'Telemetry',
    description:
      'Base URL of an OpenTelemetry collector (OTLP over HTTP) that gets the traces. Unset: none are exported.',
    example: 'http://collector.example.com:4318',
    schema: webUrl,
  }),
  METRICS_TOKEN: optional({
    group: 'Telemetry',
    description: 'Bearer token for /metrics, at least 16 bytes. Unset: open outside production, closed in production.',
    secret: true,
    example: 'output of: openssl rand -hex 24',
    schema: secretText(16),
  }),
} as const;
