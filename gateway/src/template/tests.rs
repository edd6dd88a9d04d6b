use super::{ChatTemplate, MAX_SOURCE_BYTES, Message, SpecialText, TemplateError};

/// 2024-07-26 13:05:09 UTC, a Friday.
const NOW: i64 = 1_721_999_109;

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.into(),
        content: content.into(),
        name: None,
    }
}

fn compile(source: &str) -> ChatTemplate {
    let special = SpecialText {
        bos: "<s>".into(),
        eos: "</s>".into(),
    };
    ChatTemplate::compile(source, special).unwrap()
}

fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    compile(source).render(messages, NOW)
}

/// The form of SmolLM2's: ChatML with a default system message.
const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn chatml_gets_its_default_system_message_and_generation_prompt() {
    assert_eq!(
        render(CHATML, &[message("user", "Hi")]).unwrap(),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render(CHATML, &[message("system", "S"), message("user", "Hi")]).unwrap(),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

/// The form of Llama 3's: `bos_token`, `set`, `trim`, a date, a slice of the messages.
const HEADERS: &str = "{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now(\"%d %b %Y\") %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = \"\" %}
{%- endif %}
{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}
{%- if tools is not none %}
    {{- \"Environment: ipython\\n\" }}
{%- endif %}
{{- \"Today Date: \" + date_string + \"\\n\\n\" }}
{{- system_message }}
{{- \"<|eot_id|>\" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";

#[test]
fn header_templates_see_the_date_and_no_tools() {
    let text = render(HEADERS, &[message("system", " S "), message("user", "Hi ")]).unwrap();
    assert_eq!(
        text,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nS<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

/// The form of Mistral's: alternation enforced with `raise_exception`, `eos_token` after answers.
const INST: &str = "{{ bos_token }}{% for message in messages %}\
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
    {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}\
    {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

#[test]
fn instruction_templates_may_refuse_a_conversation_in_their_own_words() {
    let turns = [message("user", "a"), message("assistant", "b"), message("user", "c")];
    assert_eq!(
        render(INST, &turns).unwrap(),
        "<s>[INST] a [/INST]b</s> [INST] c [/INST]"
    );
    let refused = render(INST, &[message("user", "a"), message("user", "b")]).unwrap_err();
    assert!(
        matches!(&refused, TemplateError::Raised { cause } if cause.contains("must alternate")),
        "{refused}"
    );
    assert!(refused.to_string().contains("must alternate"), "{refused}");
}

/// The form of Qwen's: a namespace, a backwards walk, Python's string methods, `tojson`.
const THINKING: &str = "{%- if tools %}{{- tools[0] | tojson }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == \"user\" and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == \"user\" or message.role == \"system\" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == \"assistant\" %}
        {%- set content = message.content %}
        {%- if '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}";

#[test]
fn thinking_templates_drop_earlier_thoughts() {
    let turns = [
        message("user", "a"),
        message("assistant", "<think>\nhm\n</think>\n\nb"),
        message("user", "c"),
    ];
    assert_eq!(
        render(THINKING, &turns).unwrap(),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn pythons_methods_behave_as_in_python() {
    for (expression, expected) in [
        ("'  a b '.strip()", "a b"),
        ("'xxaxx'.strip('x')", "a"),
        ("'xxaxx'.rstrip('x')", "xxa"),
        ("'a,b,c'.split(',', 1)|join('|')", "a|b,c"),
        ("'a,b,c'.rsplit(',', 1)|join('|')", "a,b|c"),
        ("' a  b '.split()|join('|')", "a|b"),
        ("'abc'.startswith(('x', 'a'))", "True"),
        ("'hello world'.title()", "Hello World"),
        ("'HELLO'.capitalize()", "Hello"),
        ("'aXbX'.replace('X', '-', 1)", "a-bX"),
        ("'éab'.find('b')", "2"),
        ("'abc'.find('z')", "-1"),
        ("'a\\nb'.splitlines()|length", "2"),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("'12'.isdigit()", "True"),
        ("{'a': 1}.items()|list|tojson", "[[\"a\", 1]]"),
        ("{'a': 1, 'b': 2}.keys()|join(',')", "a,b"),
        ("{'a': 1}.get('b', 7)", "7"),
        ("{'a': 1}.get('b') is none", "True"),
        ("{'a': [1, '<é>']}|tojson", "{\"a\": [1, \"<é>\"]}"),
        (
            "strftime_now('%Y-%m-%d %H:%M:%S %A %-d %I %p')",
            "2024-07-26 13:05:09 Friday 26 01 PM",
        ),
    ] {
        assert_eq!(
            render(&format!("{{{{ {expression} }}}}"), &[]).unwrap(),
            expected,
            "{expression}"
        );
    }
}

#[test]
fn an_unknown_method_is_named() {
    let failed = render("{{ 'a'.frobnicate() }}", &[]).unwrap_err();
    assert!(
        matches!(&failed, TemplateError::Failed { cause } if cause.contains("frobnicate") && cause.ends_with("(line 1)")),
        "{failed}"
    );
    assert!(
        failed
            .to_string()
            .starts_with("the model's chat template failed on these messages: "),
        "{failed}"
    );
}

#[test]
fn endless_templates_are_stopped() {
    let nested = "{% for a in range(10000) %}{% for b in range(10000) %}{{ b }}{% endfor %}{% endfor %}";
    assert_eq!(render(nested, &[]).unwrap_err(), TemplateError::TooManySteps);
    let recursive = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(render(recursive, &[]).is_err());
}

#[test]
fn a_prompt_past_the_limit_is_refused() {
    let source = "{% for a in range(100) %}{{ 'x' * 100000 }}{% endfor %}";
    assert_eq!(render(source, &[]).unwrap_err(), TemplateError::TooLong);
}

#[test]
fn a_broken_template_is_refused_when_compiled() {
    let special = SpecialText::default();
    let broken = ChatTemplate::compile("{% for %}", special.clone()).unwrap_err();
    assert!(
        matches!(&broken, TemplateError::Unreadable { cause } if cause.contains("line 1")),
        "{broken}"
    );
    let long = "x".repeat(MAX_SOURCE_BYTES + 1);
    assert!(matches!(
        ChatTemplate::compile(&long, special),
        Err(TemplateError::Unreadable { .. })
    ));
}

#[test]
fn templates_cannot_read_files() {
    assert!(render("{% include '/etc/passwd' %}", &[]).is_err());
}

#[test]
fn leap_days_and_times_before_1970_have_dates() {
    for (now, expected) in [
        (951_782_400, "2000-02-29"),
        (-1, "1969-12-31"),
        (0, "1970-01-01"),
        (4_107_542_400, "2100-03-01"),
    ] {
        assert_eq!(
            compile("{{ strftime_now('%Y-%m-%d') }}").render(&[], now).unwrap(),
            expected
        );
    }
}
