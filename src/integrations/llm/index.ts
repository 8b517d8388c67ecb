import { z } from 'zod';
import { OutboundRefused } from '#kernel/outbound.ts';
import { OutboundFailed, type OutboundFetch } from '#kernel/outbound-fetch.ts';
import { LlmFailed, maxDataChars, type LanguageModel } from '#kernel/llm.ts';

/** Bounds of a request, for the `fetch` that is given. */
export const limits = { timeoutMs: 90_000, maxBytes: 262_144 };
/** Most tokens of an answer. */
const maxOutputTokens = 4_000;

/**
 * A model at an endpoint that speaks OpenAI's chat completions. The answer is asked for as JSON (`response_format`
 * `json_object`, which more servers know than schemas); its schema stands in the instructions, and is checked here.
 *
 * @param options `url`: base of the API, to which `/chat/completions` is added; `fetch`: bounded by {@link limits}
 * @see https://platform.openai.com/docs/api-reference/chat/create
 */
export function createLanguageModel(options: {
  readonly url: string;
  readonly key: string;
  readonly model: string;
  readonly fetch: OutboundFetch;
}): LanguageModel {
  const { url, key, model } = options;
  return {
    name: model,
    async complete(schema, instructions, data, signal) {
      if (data.length > maxDataChars)
        throw new LlmFailed('TOO_LARGE', 'There is more to tell the model than it is told.');
      // Only here: a server that asks no model does not load them.
      const [{ generateText, Output, APICallError }, { createOpenAICompatible }] = await Promise.all([
        import('ai'),
        import('@ai-sdk/openai-compatible'),
      ]);
      // It writes to the console otherwise.
      (globalThis as { AI_SDK_LOG_WARNINGS?: false }).AI_SDK_LOG_WARNINGS = false;
      const provider = createOpenAICompatible({
        name: 'configured',
        baseURL: url.replace(/\/$/, ''),
        apiKey: key,
        fetch: (input, init) => options.fetch(String(input instanceof Request ? input.url : input), asInit(init)),
      });
      try {
        const { output } = await generateText({
          model: provider(model),
          instructions: `${instructions}\n\nAnswer with one JSON object of this JSON schema and nothing else:\n${JSON.stringify(z.toJSONSchema(schema))}`,
          prompt: data,
          output: Output.json(),
          maxOutputTokens,
          temperature: 0,
          maxRetries: 0,
          abortSignal: signal,
        });
        const answer = schema.safeParse(output);
        if (!answer.success)
          throw new LlmFailed('MALFORMED', 'The model answered in another form than it was asked to.');
        return answer.data;
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof LlmFailed) throw error;
        throw translated(error, APICallError.isInstance(error) ? (error.statusCode ?? null) : null);
      }
    },
  };
}

function asInit(init: RequestInit | undefined): Parameters<OutboundFetch>[1] {
  const { method = 'GET', headers, body, signal } = init ?? {};
  if (body != null && typeof body !== 'string') throw new Error('A question is text');
  return {
    method,
    headers,
    body: body ?? null,
    signal,
  };
}

/** What the libraries throw quotes questions, answers and headers: none of it is passed on, not even as a cause. */
function translated(error: unknown, status: number | null): LlmFailed {
  const failed = causesOf(error).find((one) => one instanceof OutboundFailed || one instanceof OutboundRefused);
  if (failed instanceof OutboundRefused)
    return new LlmFailed('UNREACHABLE', `The model's address is refused: ${failed.reason}.`);
  if (failed instanceof OutboundFailed) {
    if (failed.reason === 'TOO_LARGE') return new LlmFailed('TOO_LARGE', 'The answer of the model is too long.');
    if (failed.reason === 'TIMEOUT') return new LlmFailed('BUSY', 'The model did not answer in time.');
    return new LlmFailed('UNREACHABLE', `The model cannot be reached: ${failed.reason}.`);
  }
  if (status === 429 || status === 408)
    return new LlmFailed('BUSY', `The model has too much to do (status ${status}).`);
  if (status !== null && status >= 500)
    return new LlmFailed('UNREACHABLE', `The model's server failed (status ${status}).`);
  if (status !== null && status >= 400)
    return new LlmFailed('REFUSED', `The model's server refused the question (status ${status}).`);
  return new LlmFailed('MALFORMED', 'The answer of the model cannot be read.');
}

function causesOf(error: unknown): unknown[] {
  const all: unknown[] = [];
  for (let one = error; one instanceof Error && all.length < 10; one = one.cause) all.push(one);
  return all;
}
